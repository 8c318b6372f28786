"""Two texts become one pair, if they differ in words alone."""

import pytest

from stages.errors import UserError
from stages.referent import check_referent_only, merged
from stages.templates import Template, side_of


def test_two_sides_become_one_text_and_come_out_again() -> None:
    ours = "You need it. Now you ask yourself. One room to yourself, the {first_room}?"
    theirs = "{name} needs it. Now {name} asks you. One room to {name}, the {first_room}?"
    text = merged(ours, theirs)
    assert text == (
        "[You|{name}] [need|needs] it. Now [you|{name}] [ask|asks] [yourself|you]. One room to [yourself|{name}], "
        "the {first_room}?"
    )
    assert (side_of(text, "self"), side_of(text, "other")) == (ours, theirs)
    check_referent_only(Template("", text))


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [("You go home.", "{name} goes home now."), ("You go.", "{name} goes!"), ("You, too", "{name} too")],
)
def test_sides_of_another_length_or_punctuation_are_an_error(ours: str, theirs: str) -> None:
    with pytest.raises(UserError, match="differ in more than words"):
        merged(ours, theirs)
