"""A BERT of a few hundred thousand parameters with a word a token, untrained: for the demo and the tests.

`create` writes a normal encoder folder, so that training takes it as any pretrained one.
"""

from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast
from transformers.utils import logging

SPECIAL = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}


def create(folder: Path, texts: Iterable[str], seed: int = 0, width: int = 96, layers: int = 2) -> None:
    """Write an encoder of `layers` layers and `width` numbers a token, its vocabulary the words of `texts`."""
    logging.disable_progress_bar()
    words = Tokenizer(models.WordLevel(unk_token=SPECIAL["unk_token"]))
    words.normalizer = normalizers.BertNormalizer()
    words.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    words.train_from_iterator(texts, trainers.WordLevelTrainer(special_tokens=list(SPECIAL.values())))
    cls, sep = SPECIAL["cls_token"], SPECIAL["sep_token"]
    ends = [(token, words.token_to_id(token)) for token in (cls, sep)]
    words.post_processor = processors.TemplateProcessing(single=f"{cls} $A {sep}", special_tokens=ends)
    PreTrainedTokenizerFast(tokenizer_object=words, **SPECIAL).save_pretrained(folder)

    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=words.get_vocab_size(),
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=4 * width,
        max_position_embeddings=130,
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
