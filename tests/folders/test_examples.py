"""Examples of an adapter: what its card has under `widget`."""

import pytest

from sentilora import shipped_adapter
from sentilora.folders.adapter_folder import AdapterFolder
from sentilora.folders.card import examples_of


@pytest.mark.parametrize(
    ("card", "columns", "examples"),
    [
        ("---\nwidget:\n- text: A film.\n- text: ' '\n- 3\n---\n# Card\n", [], ["A film."]),
        ("---\nwidget:\n- text: A film.\n  title: 7\n---\n", ["title"],
         [{"text": "A film.", "title": "7"}]),
        ("---\nwidget: A film.\n---\n", [], []),
        ("# A card without metadata\n", [], []),
    ],
)  # fmt: skip
def test_examples_are_those_of_the_card(tmp_path, capsys, card, columns, examples):
    (tmp_path / "README.md").write_text(card, encoding="utf-8")
    assert examples_of(tmp_path, columns) == examples
    assert "warning" not in capsys.readouterr().err


def test_a_card_that_cannot_be_read_gives_a_warning(tmp_path, capsys):
    (tmp_path / "README.md").write_text("---\nwidget: [\n---\n", encoding="utf-8")
    assert examples_of(tmp_path, []) == []
    assert "gives no examples" in capsys.readouterr().err


def test_without_a_card_there_are_none(tmp_path):
    assert examples_of(tmp_path, []) == []


def test_the_adapter_that_ships_has_three():
    assert len(examples_of(AdapterFolder.open(shipped_adapter()).path, [])) == 3
