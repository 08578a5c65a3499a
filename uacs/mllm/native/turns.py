"""The user's turn as marked ids: chat template, markers, and a tokenizer that is asked chunk by chunk.

The originals render the whole chat as one string, split it at `<video>` and its like, and tokenise what lies
between. Here the markers are ours alone: the string is split before the transcript is put into it, and what in
the transcript looks like a marker or a special token is cut so that it stays text. Of any other text the ids are
the originals'.
"""

import re
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from uacs.errors import BadInput
from uacs.mllm.native.spliced import MARKERS
from uacs.mllm.prompts import Prompt

QWEN2_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "{% endif %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Qwen2's own; checkpoints built on it that bring no template were trained with this one."""

WRAPS = {
    "<video>": ("<vi_start>", "<vi_end>"),
    "<image>": ("<im_start>", "<im_end>"),
    "<audio>": ("<au_start>", "<au_end>"),
}
"""Text that HumanOmni puts around a marker where its config has `mm_use_x_start_end`."""

USER_TEXT = "\ue000"  # a private character that stands for the instruction while the template is filled in


@dataclass(frozen=True)
class Turns:
    """A tokenizer and its template, at work; raises `BadInput` naming `spec` where the template does not do.

    wrapped puts `WRAPS` around markers; system is a message that the family puts before the user's; fallback is
    the template of families whose folders may come without one.
    """

    spec: str
    tokenizer: PreTrainedTokenizerBase
    wrapped: bool = False
    system: str | None = None
    fallback: str | None = None

    def __post_init__(self):
        if not (self.tokenizer.chat_template or self.fallback):
            raise BadInput(
                f"{self.spec}: no chat template; copy the checkpoint's tokenizer_config.json or chat_template.jinja"
            )

    @property
    def source(self) -> str:
        """Whose template it is."""
        return "its own template" if self.tokenizer.chat_template else "Qwen2's template, since it has none"

    def shell(self, markers: str) -> list[str | int]:
        """The turn around its instruction, cut at the markers: text and marker ids in turn.

        markers is what the originals put before the instruction: `<video>\\n<audio>`, say, or nothing.
        """
        messages = [{"role": "system", "content": self.system}] if self.system else []
        messages.append({"role": "user", "content": f"{markers}\n{USER_TEXT}"})
        try:
            template = self.tokenizer.chat_template or self.fallback
            chat = self.tokenizer.apply_chat_template(
                messages, chat_template=template, tokenize=False, add_generation_prompt=True
            )
        except Exception as error:  # a template is a program, and may fail as it likes
            raise BadInput(f"{self.spec}: its chat template does not run ({error}); copy the original's") from None
        if chat.count(USER_TEXT) != 1 or any(chat.count(m) != markers.count(m) for m in MARKERS):
            raise BadInput(f"{self.spec}: its chat template leaves out or adds to the user's turn; copy the original's")
        if self.wrapped:
            for marker, (start, end) in WRAPS.items():
                chat = chat.replace(marker, start + marker + end)
        pieces = re.split("(" + "|".join(MARKERS) + ")", chat)
        return [MARKERS.get(piece, piece) for piece in pieces]

    def ids(self, markers: str, prompt: Prompt, most: int | None = None) -> list[int]:
        """Marked ids of the turn up to where the answer begins; of the transcript no more than `most` tokens."""
        said = self._first(prompt.transcript, most)
        ids: list[int] = []
        for piece in self.shell(markers):
            if isinstance(piece, int):
                ids.append(piece)
            elif USER_TEXT in piece:
                before, _, after = piece.partition(USER_TEXT)
                ids += self._chunk(before + prompt.before, said, prompt.after + prompt.hints + after)
            else:
                ids += self.tokens(piece)
        return ids

    def tokens(self, text: str) -> list[int]:
        """Ids of a text of ours, without tokens that the tokenizer would put around it."""
        return self.tokenizer(text, add_special_tokens=False)["input_ids"] if text else []

    def _chunk(self, before: str, transcript: str, after: str) -> list[int]:
        """One stretch between markers; it is tokenised whole but for the cuts in its transcript."""
        *whole, last = cut(transcript, self._special())
        ids, start = [], before
        for piece in whole:
            ids += self.tokens(start + piece)
            start = ""
        return ids + self.tokens(start + last + after)

    def _first(self, text: str, most: int | None) -> str:
        if most is None or len(text.encode("utf-8", "replace")) <= most:  # no token is shorter than a byte
            return text
        pieces = cut(text, self._special())
        ids = [i for piece in pieces for i in self.tokens(piece)]
        return text if len(ids) <= most else self.tokenizer.decode(ids[:most]).rstrip("\ufffd")

    def _special(self) -> list[str]:
        return [*MARKERS, *self.tokenizer.get_added_vocab()]


def cut(text: str, special: list[str]) -> list[str]:
    """A text in pieces, so that none holds one of the special strings; joined they are the text again.

    >>> cut("<video> of <video", ["<video>"])
    ['<', 'video> of <video']
    """
    longest_first = sorted((token for token in special if len(token) > 1), key=len, reverse=True)
    pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
    pieces = []
    while found := pattern.search(text):
        place = found.start() + 1
        pieces.append(text[:place])
        text = text[place:]
    return [*pieces, text]
