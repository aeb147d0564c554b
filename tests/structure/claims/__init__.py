"""What the pages claim about stored results: each sentence beside the condition that holds it up.

A page prints its claims with `tables.show_claims`; a sentence is the same here, letter by letter.
Conditions take no argument and are worked out from the results files and the shipped weights.
"""

from claims import page_06, page_07, page_08, page_09, page_10

PAGES = {"06": page_06, "07": page_07, "08": page_08, "09": page_09, "10": page_10}
CLAIMS = {number: page.CLAIMS for number, page in PAGES.items()}
