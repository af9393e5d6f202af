"""Rules of scoring: what counts as right, what does not, and how rules are written."""

from __future__ import annotations

import unicodedata
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saccade.scoring import RULES, best, is_match, normalise, parse, read
from saccade.scoring.quantities import quantity
from saccade.scoring.reading import option_letter, yes_or_no
from saccade.scoring.text import edit_distance, similarity


def worth(rule: str, said: str, *answers: str) -> float:
    return best(parse(rule), said, answers)


@pytest.mark.parametrize("said", ["Three circles", "three  circles ", "\tthree circles.", "THREE CIRCLES ."])
def test_form_does_not_matter(said):
    assert is_match(said, "three circles") and worth("exact", said, "three circles") == 1


@pytest.mark.parametrize("said", ["three", "three circle", "three, circles", "", "threecircles"])
def test_content_does(said):
    assert not is_match(said, "three circles") and worth("exact", said, "three circles") == 0


def test_space_before_punctuation_goes():
    assert normalise("red , blue , Green") == "red, blue, green"


@pytest.mark.parametrize("stop", [".", "\u3002", "\uff0e", "\u0964", "\u06d4", " \u3002", ". \u3002"])
def test_full_stops_of_every_script_are_no_part_of_an_answer(stop):
    said = f"\u8c61{stop}"
    assert is_match(said, "\u8c61") and not is_match(said, "\u8c61\u8c61")
    assert normalise(normalise(said)) == normalise(said)


@pytest.mark.parametrize("text", ["3.5", "a", "", "no."])
def test_normalising_twice_changes_nothing(text):
    assert normalise(normalise(text)) == normalise(text)


def test_one_of_several_answers_is_enough():
    assert worth("exact", "Auto", "car", "auto") == 1
    assert worth("exact", "lorry", "car", "auto") == 0
    assert worth("anls", "automobil", "car", "automobile") == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("said", "answer", "rule", "right"),
    [
        ("It is a Red Car.", "red car", "contains", True),
        ("a concatenation", "cat", "contains", False),
        ("a concatenation", "cat", "contains(words=false)", True),
        ("\u7b54\u6848\u662f\u5317\u4eac\u5e02", "\u5317\u4eac", "contains(words=false)", True),
        ("costs $5 (five)", "$5", "contains", True),
        ("red", "red car", "contains", False),
        ("", "red", "contains", False),
    ],
)
def test_contains_looks_for_whole_words_unless_told_otherwise(said, answer, rule, right):
    assert worth(rule, said, answer) == right


def test_anls_equals_the_formula_of_its_paper():
    # Two edits in nine letters; half of the letters wrong is nothing.
    assert worth("anls", "Washingtin", "Washington") == pytest.approx(0.9)
    assert worth("anls", "abcd", "abxy") == 0
    assert worth("anls", "abcd", "abcx") == pytest.approx(0.75)
    assert worth("anls(threshold=0.2)", "abcd", "abcx") == 0
    assert worth("anls", "  A  b ", "a B") == 1


@given(st.text("abcd", max_size=7), st.text("abcd", max_size=7))
def test_edit_distance_equals_its_recursive_definition(a, b):
    @cache
    def slow(i: int, j: int) -> int:
        if not i or not j:
            return i + j
        return min(slow(i - 1, j) + 1, slow(i, j - 1) + 1, slow(i - 1, j - 1) + (a[i - 1] != b[j - 1]))

    assert edit_distance(a, b) == slow(len(a), len(b))
    assert 0 <= similarity(a, b) <= 1 and (similarity(a, b) == 1) == (a == b)


@pytest.mark.parametrize(
    "said",
    [
        *("B", "b", "(B)", "(b)", "B.", "B)", "**B**", " B\n", "[B]", "B. a dog", "B: a dog", "(B) a dog"),
        *("The answer is B", "The answer is B.", "the correct answer is (B).", "Answer: B", "answer is b."),
        *("I would choose option B", "Option B is right", "A dog, so B", "A cat is not here, so it is (B)"),
        *(
            "The answer is not A: the answer is B",
            "The answer is **B**",
            'Answer: "B"',
            "answer is: B, a dog",
        ),
    ],
)
def test_an_option_is_found_however_it_is_dressed(said):
    assert worth("option", said, "B") == 1 and worth("option", said, "(b)") == 1
    assert worth("option", said, "C") == 0


@pytest.mark.parametrize(
    "said", ["", "none", "A dog", "A or B", "I think so", "the answer is a dog", "(A) or (C)", "Because"]
)
def test_no_option_is_made_up(said):
    assert all(worth("option", said, letter) == 0 for letter in "ABCDI")


@pytest.mark.parametrize(
    ("said", "right"),
    [
        *(("yes", "yes"), ("Yes.", "yes"), ("Yes, there is no doubt", "yes"), ("NO!", "no")),
        *(("The answer is no", "no"), ("there is nothing", None), ("yesterday", None), ("", None)),
    ],
)
def test_yes_and_no_are_words(said, right):
    assert worth("yes_no", said, "yes") == (right == "yes")
    assert worth("yes_no", said, "No") == (right == "no")


@pytest.mark.parametrize(
    ("said", "answer", "tolerance", "right"),
    [
        *(("1,234", "1234", 0, True), ("1,234.5", "1234.5", 0, True), ("1234", "1,234", 0, True)),
        *(
            ("12 %", "12", 0, True),
            ("12%", "12 %", 0, True),
            ("0.12", "12%", 0, True),
            ("12%", "0.12", 0, True),
        ),
        *(("12%", "1200%", 0, False), ("12", "1200", 0, False), ("about 12 apples.", "12", 0, True)),
        *(
            ("$3.50", "3.5", 0, True),
            ("-3", "3", 0, False),
            ("\u22123", "-3", 0, True),
            ("= - 3", "-3", 0, True),
        ),
        *(
            ("3,5", "3.5", 0, True),
            ("1e3", "1000", 0, True),
            (".5", "0.5", 0, True),
            ("12 percent", "12%", 0, True),
        ),
        *(("105", "100", 0.05, True), ("95", "100", 0.05, True), ("106", "100", 0.05, False)),
        *(("0.0", "0", 0.05, True), ("0.01", "0", 0.05, False), ("-105", "-100", 0.05, True)),
        *(
            ("In 2019 the answer is 45", "45", 0, True),
            ("12 + 5 = 17", "17", 0, True),
            ("17 of 20", "17", 0, True),
        ),
        *(
            ("seventeen", "17", 0, False),
            ("", "0", 0, False),
            ("v2beta", "2", 0, False),
            ("1,2345", "1", 0, False),
        ),
        ("The answer is about 45 in 2019", "45", 0, True),
    ],
)
def test_numbers_are_read_as_people_write_them(said, answer, tolerance, right):
    assert worth(f"number(tolerance={tolerance})", said, answer) == right


@pytest.mark.parametrize(
    ("said", "number"),
    [
        *(("- 5", 5), ("- 5\n- 7", 5), ("Total - 5", 5), ("The answer is - 5", -5), ("x = - 5", -5)),
        *(("Total -5", -5), ("-$5", -5), ("$-5", -5), ("- $5", 5)),
        *(("1 000", 1000), ("1\u00a0000", 1000), ("12\u202f345,5", 12345.5), ("2019", 2019), ("5 20", 5)),
        *(("12,34,567", 1234567), ("1,00,000.5", 100000.5), ("1,234,567", 1234567)),
        *(("1.234,5", 1234.5), ("1.234.567", 1234567), ("1.234", 1.234), ("0,123", 0.123), ("12,5", 12.5)),
        *(("1,000,00", None), ("1.2.3", None), ("1e400", None), ("9" * 400, None), ("1e5", 1e5)),
    ],
)
def test_marks_group_divide_and_negate_as_in_print(said, number):
    found = quantity(said)
    assert (None if found is None else found.value) == number


@pytest.mark.parametrize("answer", ["1e400", "9" * 400])
def test_a_number_that_is_too_large_is_no_reference(answer):
    rule = parse("number")
    assert not rule.suits(answer) and rule.score("5", answer) == rule.score("banana 7", answer) == 0


@pytest.mark.parametrize(
    ("said", "letter"),
    [
        *(("The answer is B. Option A is wrong.", "B"), ("Option A is wrong, so the answer is B", "B")),
        *(("The correct option is B) cat. Option A) dog is not there.", "B"), ("Option A is right", "A")),
        *(("The answer is 'B'", "B"), ("The answer is 'B'.", "B"), ("I take 'B'", "B"), ("answer: 'a'", "A")),
        *(("The answer is A or B", None), ("the answer is (a) or (b)", None), ("Option A or B", None)),
        *(("Answer: A / C", None), ("The answer is A and B", None), ("The answer is A or B. Answer: B", "B")),
        *(("The answer is B and I am sure", "B"), ("the answer is b or a dog", "B")),
        *(
            ("the answer is c because", "C"),
            ("the answer is a because", "A"),
            ("the answer is b, I think", "B"),
        ),
        *(("Answer: I do not know", None), ("Answer: A dog runs", None), ("the answer is e.g. red", None)),
        *(("Answer: I", "I"), ("Answer: A", "A"), ("The answer is A because it is red", "A")),
    ],
)
def test_the_letter_of_a_sentence_is_the_one_it_answers(said, letter):
    assert option_letter(said) == letter


@pytest.mark.parametrize(
    ("said", "letter"),
    [
        # An answer that is stated stands above all that is told about options.
        ("The correct answer is option B. Option A shows a cat.", "B"),
        ("The correct answer is B, C is a cat", "B"),
        ("The answer is B and A is wrong.", "B"),
        ("The answer is option B rather than option D", "B"),
        ("Answer is (C) because A is a cat", "C"),
        ("The answer is therefore B", "B"),
        ("The correct choice would be (D).", "D"),
        ("The best answer to the question is B.", "B"),
        ("**Answer:** (B) a dog", "B"),
        ("The answer is: \\boxed{B}", "B"),
        ("I would go with option C, since A and B are wrong.", "C"),
        ("I'd pick B over A.", "B"),
        ("Choose A, B, C, or D.\nAnswer: B", "B"),
        ("A. cat\nB. dog\nThe answer is B.", "B"),
        ("Option A shows a cat. Option B shows a dog. The question asks for a dog, so B.", "B"),
        ("The answer is B. The other options (A, C, D) do not match.", "B"),
        # Then an option that is called right.
        ("Option B is correct; option A is incorrect.", "B"),
        ("B is the correct answer.", "B"),
        ("Option B (a dog) is correct, whereas option A (a cat) is not.", "B"),
        ("Option C is most likely correct.", "C"),
        ("A is correct. B is correct.", None),
        ("A is right of B", None),
        # Then one in front, and the first that is named.
        ("B. Option A shows a cat and option C a mouse.", "B"),
        ("(B) because option A shows a cat.", "B"),
        ("Option B shows a dog. Option A shows a cat.", "B"),
        ("Looking at the picture, it is option (d).", "D"),
        ("Options A and C", None),
        # What is turned down is not chosen.
        ("not B", None),
        ("The answer is not B.", None),
        ("A and B are wrong", None),
        ("Option A is incorrect.", None),
        ("B, not A", "B"),
        ("It is not B but C.", "C"),
        ("The answer isn\u2019t option A, it's option C.", "C"),
        ("The answer is not A or B, it is C", "C"),
        ("Neither A, B nor D fits; C does.", "C"),
        ("A can be ruled out. B cannot be right either. That leaves C.", "C"),
        ("I eliminated options A and C, so option B", "B"),
        ("Option A is wrong. Option B is wrong. Option C fits.", "C"),
        ("Unlike option A, option B shows a dog.", "B"),
        ("A is not the answer, B is.", "B"),
        # Nothing is chosen between several.
        ("The answer is either A or B", None),
        ("It could be A, B, or C.", None),
        ("The image shows a cat (A) and a dog (B).", None),
    ],
)
def test_the_option_of_a_long_answer_is_the_one_it_settles_on(said, letter):
    assert option_letter(said) == letter


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("There are no clouds in the sky. Final answer: Yes", "yes"),
        ("No, there are no dogs.", "no"),
        ("**Answer:** Yes", "yes"),
        ("The correct answer is **No**, yes is wrong", "no"),
        ("There is no dog, so yes.", "yes"),
        ("There are no dogs, so no clouds and yes", "no"),
        ("Answer yes or no: Yes", "yes"),
        ("The answer to the question is no.", "no"),
        ("maybe", None),
    ],
)
def test_yes_or_no_is_what_is_stated_as_the_answer_before_what_is_said_first(said, meant):
    assert yes_or_no(said) == meant


@pytest.mark.parametrize(
    ("said", "answer", "right"),
    [
        *(("1,300", "300", False), ("3.5", "3", False), ("12:30", "30", False), ("12:30", "12", False)),
        *(("1.300", "300", False), ("it costs $5.50", "$5", False), ("1.5%", "5%", False)),
        *(("300, no more", "300", True), ("at 12:30.", "12:30", True), ("There are 3.", "3", True)),
        *(("answer:3", "3", True), ("1,300 people", "1,300", True), ("v. 3: new", "3", True)),
    ],
)
def test_contains_does_not_find_a_number_within_another(said, answer, right):
    assert worth("contains", said, answer) == right


@pytest.mark.parametrize(
    ("said", "number"),
    [
        ("There is 1 cup on the left and 2 on the right. Total: 3", 3),
        ("There are 2 cats and 3 dogs, for a total of 5 animals.", 5),
        ("2 on the left, 3 on the right; 5 animals in total.", 5),
        ("The sum of 3 and 4 is 7.", 7),
        ("The total number of cups is 3, 2 of them red", 3),
        ("In 2019 there were 12. **Answer:** 12", 12),
        *(
            ("1.5 million", 1.5e6),
            ("$2 thousand", 2000),
            ("3 Billion people", 3e9),
            ("half of 1/2 million", 5e5),
        ),
        *(("5k", 5), ("3/4", 0.75), ("-3/4", -0.75), ("1 3/4 cups", 1.75), ("3/4/2020", 3), ("3/0", 3)),
    ],
)
def test_the_number_of_a_long_answer_is_the_one_it_comes_to(said, number):
    found = quantity(said)
    assert found is not None and found.value == pytest.approx(number)


@pytest.mark.parametrize(
    ("said", "answer", "right"),
    [
        *(("100%", "1", False), ("150%", "1.5", False), ("5%", "5", True), ("5%", "0.05", True)),
        *(("1", "100%", True), ("100", "100%", True), ("75%", "3/4", True), ("1%", "100%", False)),
    ],
)
def test_a_percent_sign_divides_by_a_hundred_only_where_the_reference_says_so(said, answer, right):
    assert worth("number(tolerance=0)", said, answer) == right


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "piece", ["A, ", "A or ", "B (", "B is ", "answer to ", "answer", "* ", " ", "1 a b c ", "total a ", "1,"]
)
def test_a_model_that_repeats_itself_is_read_in_time_that_grows_with_its_words(piece):
    said = piece * 1000  # a search through all ways to match would never end
    assert option_letter(f"{said} dog") == ({"A": "A", "B": "B"}.get(piece[0]))
    assert yes_or_no(f"answer{said}") is None
    assert quantity(f"answer{said}x") is None or "1" in piece


def test_the_usual_tolerance_is_a_century_of_years():
    assert worth("number", "1950", "2019") == 1 and worth("number(tolerance=0)", "2018", "2019") == 0


@pytest.mark.parametrize("tenths", range(1, 11))
def test_anls_is_nothing_exactly_from_its_threshold_on(tenths):
    rule = parse(f"anls(threshold={tenths / 10})")
    for wrong in range(10):
        said = "x" * wrong + "a" * (10 - wrong)
        assert rule.score(said, "a" * 10) == (pytest.approx(1 - wrong / 10) if wrong < tenths else 0)


@pytest.mark.parametrize("rule", ["exact", "anls", "contains"])
def test_composed_and_decomposed_letters_are_the_same(rule):
    assert worth(rule, unicodedata.normalize("NFD", "Caf\u00c9"), "caf\u00e9") == 1
    assert worth(rule, "caf\u00e9", unicodedata.normalize("NFD", "caf\u00e9")) == 1


@given(st.floats(0, 1, exclude_max=True), st.floats(0, 1, exclude_min=True))
def test_any_parameter_is_read_back_as_it_is_written(tolerance, threshold):
    for rule in (read({"number": {"tolerance": tolerance}}), read({"anls": {"threshold": threshold}})):
        assert parse(str(rule)) == rule


@given(st.floats(-1e9, 1e9).filter(lambda x: abs(x) > 1e-3), st.floats(0, 0.5))
def test_a_number_is_right_within_its_tolerance_and_not_far_outside(value, tolerance):
    rule, answer = parse(f"number(tolerance={tolerance!r})"), f"{value:.6f}"
    inside, outside = float(answer) * (1 + 0.99 * tolerance), float(answer) * (1.02 + 1.02 * tolerance)
    assert rule.score(f"{inside:.9f}", answer) == 1
    assert rule.score(f"{outside:.9f}", answer) == 0


@given(st.sampled_from(sorted(RULES)), st.text(max_size=30), st.text(max_size=30))
def test_every_rule_gives_a_share_whatever_is_said(name, said, answer):
    rule = parse(name)
    assert 0 <= rule.score(said, answer) <= 1
    if rule.suits(answer):
        assert rule.score(answer, answer) == 1


@pytest.mark.parametrize(
    "text", ["exact", "contains(words=false)", "anls(threshold=0.3)", "number(tolerance=0)"]
)
def test_rules_are_written_as_they_are_read(text):
    assert str(parse(text)) == text and parse(str(parse(text))) == parse(text)


def test_defaults_are_not_written():
    assert str(parse(" anls ( threshold = 0.5 ) ")) == "anls" == str(read({"anls": {}}))
    assert read({"number": {"tolerance": 0.1}}) == parse("number(tolerance=0.1)")


@pytest.mark.parametrize(
    ("data", "match"),
    [
        ("nosuch", "no score 'nosuch'; known: exact, contains"),
        ("number(tolerance=x)", "tolerance: 'x' is not a number"),
        ("number(0.1)", "'0.1' has no name"),
        ("number(slack=1)", "no parameter 'slack'; it has: tolerance"),
        ("exact(x=1)", "no parameter 'x'; it has none"),
        ("number(tolerance=2)", "tolerance is at least 0 and below 1, got 2"),
        ("anls(threshold=0)", "threshold is above 0"),
        ("anls(", "cannot read score"),
        ("contains(words=1)", "words is true or false"),
        ({"number": {"tolerance": True}}, "tolerance is a number, got True"),
        ({"number": {"tolerance": "5 %"}}, "tolerance is a number, got '5 %'"),
        ({"number": {"tolerance": 10**400}}, "tolerance is too large"),
        ({"number": 0.1}, "a score is a name such as"),
        ({"number": {}, "anls": {}}, "a score is a name such as"),
        (3, "a score is a name such as"),
    ],
)
def test_what_is_no_rule_is_refused(data, match):
    with pytest.raises(ValueError, match=match):
        read(data)
