"""The command behind `make run`: what it says when it is called wrongly."""

import pytest

from fusion_lib import run


@pytest.mark.parametrize("arguments", [["scense"], ["Scenes"], [], ["scenes", "stanford_background"]])
def test_misspelt_data_set_gets_the_list_of_names(arguments, capsys):
    assert run.main(arguments) == 2
    message = capsys.readouterr().err
    assert "scenes" in message and "stanford_background" in message and "expected one of" in message
    assert repr(" ".join(arguments)) in message
