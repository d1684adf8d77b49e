"""Pairs of texts that differ in a known way: metamorphic tests need no labels. All texts are ours."""

from __future__ import annotations

from itertools import product

Pair = tuple[str, str]

_SYNONYMS = {
    "wonderful": "marvelous",
    "excellent": "superb",
    "funny": "hilarious",
    "delightful": "enjoyable",
    "brilliant": "fantastic",
    "charming": "lovely",
    "terrible": "horrible",
    "boring": "tedious",
    "awful": "dreadful",
    "disappointing": "unsatisfying",
    "stupid": "silly",
    "dull": "lifeless",
}
_NOUNS = {
    "film": "movie",
    "story": "book",
    "camera": "printer",
    "phone": "laptop",
    "ending": "beginning",
    "speech": "article",
}
_FRAMES = ("The {noun} is {word}.", "I think this {noun} is really {word}.", "What a {word} {noun}!")
_PLAIN = [(word, noun, frame.format(word=word, noun=noun)) for word, noun, frame in product(_SYNONYMS, _NOUNS, _FRAMES)]


def synonyms() -> list[Pair]:
    return [(text, text.replace(word, _SYNONYMS[word])) for word, _, text in _PLAIN]


def neutral_nouns() -> list[Pair]:
    return [(text, text.replace(noun, _NOUNS[noun])) for _, noun, text in _PLAIN]


def negation() -> list[Pair]:
    return [(text, text.replace(f"is {word}", f"is not {word}")) for word, _, text in _PLAIN if f"is {word}" in text]


def typos() -> list[Pair]:
    """The third and fourth letter of the word that matters change places."""
    return [(text, text.replace(word, word[:2] + word[3] + word[2] + word[4:])) for word, _, text in _PLAIN]


def case() -> list[Pair]:
    return [(text, text.upper()) for _, _, text in _PLAIN]


def order() -> list[Pair]:
    """Two sentences, the other way round."""
    texts = [text for _, _, text in _PLAIN]
    return [(f"{one} {two}", f"{two} {one}") for one, two in zip(texts, texts[7:], strict=False)]
