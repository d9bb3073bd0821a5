"""The words that the demonstration backbone knows, and their ids.

A caption becomes start, its words, end, then zeros. The end has the highest id of all, since CLIP's text tower reads
the embedding where the id is largest.
"""

from collections.abc import Sequence

import torch

__all__ = ["CONTEXT_LENGTH", "NOUNS", "OTHER_NOUNS", "WordTokenizer"]

CONTEXT_LENGTH = 16  # tokens; the longest prompt takes nine
PADDING_ID = 0
START_ID = 1

# The shipped weights hold one row per word in this order: words can be added only by training anew.
_PROMPT_WORDS = "a photo of normal damaged image"
_PICTURED_NOUNS = "object, weave, wood, granite, circuit board, casting, bottle cap"
_OTHER_NOUNS = (
    "bearing, board, bolt, bottle, brushed metal, cable, cable bundle, capsule, carpet, casing, chip, coin, connector, "
    "cookie, engine, fabric, film, gasket, gear, glass, grid, hazelnut, hose, housing, knurled part, leather, lens, "
    "metal, mould, nut, paper, part, pcb, perforated sheet, pill, pipe, plastic, plate, product, ring, roller, screw, "
    "sheet, shell, spring, steel, surface, switch, textile, tile, toothbrush, transistor, valve, washer, weld, wheel, "
    "wire, zipper"
)
OTHER_NOUNS = tuple(_OTHER_NOUNS.split(", "))
"""Nouns of which the backbone saw no picture: it knows them as other words for "object"."""
NOUNS = (*_PICTURED_NOUNS.split(", "), *OTHER_NOUNS)
"""What a prompt can name, the generic noun first."""

_WORDS = tuple(dict.fromkeys(" ".join((_PROMPT_WORDS, *NOUNS)).split()))


class WordTokenizer:
    """Whole words to ids; calling it follows open_clip's tokenizers.

    Attributes:
        vocab_size: Number of ids, the special ones included.
        context_length: Ids per text.

    Example:
        >>> tokenizer = WordTokenizer()
        >>> ids = tokenizer(["A photo of a damaged circuit board"])
        >>> ids.shape, int(ids.argmax()), tokenizer.decode(ids[0])
        (torch.Size([1, 16]), 8, 'a photo of a damaged circuit board')
    """

    def __init__(self) -> None:
        self.context_length = CONTEXT_LENGTH
        self._ids = {word: START_ID + 1 + place for place, word in enumerate(_WORDS)}
        self._end_id = START_ID + 1 + len(_WORDS)
        self.vocab_size = self._end_id + 1

    def __call__(self, texts: str | Sequence[str], context_length: int | None = None) -> torch.Tensor:
        """Return ids ``(n, context_length)``, int64; what is too long loses its last words.

        Args:
            texts: One text or several.
            context_length: Ids per text; the model's own where absent.

        Raises:
            ValueError: If a word is unknown.
        """
        length = self.context_length if context_length is None else context_length
        rows = [texts] if isinstance(texts, str) else list(texts)
        ids = torch.full((len(rows), length), PADDING_ID, dtype=torch.long)
        for row, text in enumerate(rows):
            words = self._find_ids(text)[: length - 2]
            ids[row, : len(words) + 2] = torch.tensor([START_ID, *words, self._end_id])
        return ids

    def decode(self, ids: torch.Tensor) -> str:
        """Return the words of one row of ids."""
        words = {value: word for word, value in self._ids.items()}
        return " ".join(words[value] for value in ids.tolist() if value in words)

    def _find_ids(self, text: str) -> list[int]:
        words = text.lower().split()
        unknown = [word for word in words if word not in self._ids]
        if unknown:
            msg = (
                f"feclip-demo does not know {', '.join(map(repr, unknown))} in {text!r}; "
                f"its nouns are {', '.join(NOUNS)}."
            )
            raise ValueError(msg)
        return [self._ids[word] for word in words]
