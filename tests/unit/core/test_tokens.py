import pytest
from samserve.core.concept import Example, TokenizedConcept
from samserve.core.tokens import (
    BadVocabulary,
    Vocabulary,
    pack_vocabulary,
    split_words,
    unpack_vocabulary,
)

MERGES = [("c", "o"), ("i", "n</w>"), ("co", "in</w>")]


def test_a_word_is_merged_as_far_as_the_vocabulary_goes() -> None:
    vocabulary = Vocabulary(MERGES)
    begin, coin, end = vocabulary.encode("coin")
    assert (begin, end, vocabulary.size) == (515, 516, 517)
    assert coin == vocabulary.ids["coin</w>"] == 514
    assert vocabulary.encode("coins")[1:-1] == tuple(
        vocabulary.ids[part] for part in ("co", "i", "n", "s</w>")
    )


def test_case_and_spacing_do_not_matter() -> None:
    vocabulary = Vocabulary(MERGES)
    assert vocabulary.encode(" COIN \t coin\n") == vocabulary.encode("coin coin")


def test_words_are_split_as_clip_does() -> None:
    text = "it's 12 café-cups, 日本 don't!?"
    assert list(split_words(text)) == [
        *("it", "'s", "1", "2", "café", "-", "cups", ",", "日本", "don", "'t", "!?")
    ]


def test_special_words_of_the_vocabulary_are_plain_text() -> None:
    vocabulary = Vocabulary(MERGES)
    inner = vocabulary.encode("<|endoftext|>")[1:-1]
    assert vocabulary.begin not in inner and vocabulary.end not in inner


def test_a_vocabulary_is_packed_and_read() -> None:
    packed = pack_vocabulary(MERGES)
    assert packed == pack_vocabulary(MERGES)
    assert unpack_vocabulary(packed).ids == Vocabulary(MERGES).ids


@pytest.mark.parametrize("packed", [b"one two three\n", b"\x1f\x8bdamaged", b"\xff\xfe"])
def test_a_damaged_vocabulary_is_refused(packed: bytes) -> None:
    with pytest.raises(BadVocabulary):
        unpack_vocabulary(packed)


def test_a_concept_is_named_by_its_tokens_and_examples() -> None:
    near, far = Example((1, 2, 3, 4)), Example((5, 6, 7, 8), negative=True)
    concept = TokenizedConcept((1, 2), (near, far))
    assert concept.digest == TokenizedConcept((1, 2), (far, near)).digest
    assert concept.digest == TokenizedConcept((1, 2), (far, Example((1.01, 2, 3, 4)))).digest
    others = [
        TokenizedConcept((1, 3), (near, far)),
        TokenizedConcept((1, 2), (near,)),
        TokenizedConcept((1, 2), (near, Example(far.box))),
        TokenizedConcept((1, 2), (far, Example((1.2, 2, 3, 4)))),
    ]
    assert len({concept.digest, *(other.digest for other in others)}) == 5
    assert concept.text_digest == others[1].text_digest != others[0].text_digest
