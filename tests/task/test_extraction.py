from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lipo_e_ray.task.extraction import cut, extract_number, final_part, is_number, label, normalise


@pytest.mark.parametrize(
    ("output", "number"),
    [
        ("1,234,567", "1234567"),
        ("It costs $5.00.", "5"),
        ("-$5", "-5"),
        ("$-5", "-5"),
        ("50%", "50"),
        ("-0", "0"),
        ("1e3", "1000"),
        ("2.5E-1", "0.25"),
        ("3/4", "0.75"),
        ("The answer is 18.", "18"),
        ("\u22125 degrees", "-5"),
        ("**18**", "18"),
        (".5", "0.5"),
        ("5kg", "5"),
        ("one, 1, 2", "2"),
        ("10-3", "3"),
        ("(4)-3", "3"),
        ("- 3 apples", "3"),
        ("12/6 =", "6"),
        ("12 / 6", "6"),
        ("12/6 = 2", "2"),
        ("x7", None),
        ("", None),
        ("####", None),
        ("eighteen", None),
        ("1/0", None),
        ("#### 18", "18"),
        ("#### 1\nNo, wrong.\n#### 2", "2"),
        ("#### 18 apples and 3 pears", "18"),
        ("#### 3 + 4 = 7", "7"),
        ("####\n18", "18"),
        ("#### $1,200", "1200"),
        ("#### 18\nThe answer is 3 times as good", "18"),
        ("#### 18 ####", "18"),
        ("She has 18.\n####", "18"),
        ("\\boxed{12} is less than 100", "12"),
        ("\\boxed{1} \\boxed{2}.", "2"),
        ("$\\boxed{\\frac{3}{4}}$ of 8", "0.75"),
        ("\\boxed{\\text{18 apples}} in 2 bags", "18"),
        ("\\boxed{1{,}234}", "1234"),
        ("\\boxed{18", "18"),
        ("\\boxed{7} and #### 8", "8"),
        ("#### 18\n\nQuestion: 2 + 2?\n#### 4", "18"),
        ("18\nQ: 2 + 2?\nA: 4", "18"),
        ("18\n**Question 2:** 3 + 3?", "18"),
        ("Question: 2 + 2?\nAnswer: 4", "4"),
        ("Question: 2 + 2?\n4\nQuestion: 3 + 3?\n6", "4"),
        ("FAQ: 4", "4"),
    ],
)
def test_extract_number(output, number):
    assert extract_number(output) == (None if number is None else Decimal(number))


@given(st.integers(-(10**12), 10**12), st.sampled_from(["#### {}", "\\boxed{{{}}}", "It is {}.", "**{}**", "= {}"]))
def test_a_number_is_found_in_every_form(number, form):
    assert extract_number(form.format(number)) == number
    assert extract_number(form.format(f"{number:,}")) == number


@given(
    st.lists(st.sampled_from(["Question:", "Q:", "\n", "#", " ", "4"]) | st.text(max_size=5), max_size=30).map("".join)
)
def test_a_cut_is_a_prefix(output):
    assert output.startswith(cut(output))


@pytest.mark.parametrize(
    ("output", "part"),
    [
        ("cats", None),
        ("Answer: cats", "cats"),
        ("The answer is: **cats**\nand more", "cats**"),
        ("answer: a\n#### b\nc", "b"),
        ("#### a\n####", ""),
    ],
)
def test_the_final_part_is_the_last_marked_one_up_to_the_end_of_its_line(output, part):
    assert final_part(output) == part


def test_what_a_label_and_a_number_are():
    assert label("think\n#### Yes.") == "yes" == label("  YES ") and label("...") == ""
    assert is_number("9 * 2\n#### 18") and is_number("50%") and not is_number("18 apples") and not is_number("1/0")
    assert normalise(" \u201cThe\n CAT!\u201d ") == "the cat"
