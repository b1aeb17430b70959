"""A tiny real BERT classifier of texts or pairs, published with its card and its ONNX graph: publish_tiny(directory)."""

from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from serve.engines.card import Card, Variant, write_card
from serve.tasks.classification import Classification
from serve.tasks.protocol import Item, Task

LABELS = ("ham", "spam", "其他")
MAX_LENGTH = 24
CORPUS = [
    "The film was a joy from the first minute to the last.",
    "Win a prize now, call this number, it is free.",
    "See you at the station at six, bring the keys.",
    "这部电影很好看，我非常喜欢。",
    "质量太差，用了一天就坏了。",
]
TEXTS = [
    "Win a prize now",
    "a",
    "See you at the station, bring the keys, bring the film, and then see you again at six at the station of joy",
    "这部电影很好看",
    "The film was a joy from the first minute",
    "质量太差 🙂 bad",
    "[CLS] prize [SEP]",
]
PAIRS = [(TEXTS[0], TEXTS[2]), (TEXTS[2], TEXTS[0]), (TEXTS[3], TEXTS[5]), ("a", "a"), (TEXTS[2], TEXTS[4]), (TEXTS[4], "joy")]


def publish_tiny(directory: Path, seed: int = 0, pairs: bool = False, task: Task | None = None) -> None:
    """A published model: two layers of 32 units with random weights of this seed, as safetensors and as ONNX.

    For pairs of texts it reads which token is of which text. Another `task` is of several heads; its ONNX graph
    gives them as one output, as a stock exporter would have it.
    """
    columns = [f"{name} {number}" for name, width in (task.graph_parts if task else ()) for number in range(width)]
    tokenizer = train_tokenizer()
    tokenizer.save_pretrained(directory)
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=MAX_LENGTH,
        id2label=dict(enumerate(columns or LABELS)),
        pad_token_id=tokenizer.pad_token_id,
        # Wide enough that answers differ between texts.
        initializer_range=0.5,
    )
    model = BertForSequenceClassification(config).eval()
    model.save_pretrained(directory)
    export_onnx(model, directory / "onnx" / "model.onnx")
    variants = {
        "torch": Variant(backend="torch", file="model.safetensors", precision="fp32"),
        "onnx": Variant(backend="onnx", file="onnx/model.onnx", precision="fp32"),
    }
    parameters = sum(parameter.numel() for parameter in model.parameters())
    inputs = "input_ids", "attention_mask", "token_type_ids"
    card = Card(
        task=task or Classification(labels=LABELS, pairs=pairs),
        max_length=MAX_LENGTH,
        inputs=inputs if pairs else inputs[:2],
        variants=variants,
        default="onnx",
        parameters=parameters,
    )
    write_card(directory, card)


def texts_as_items(texts: Sequence[str]) -> list[Item]:
    """An item of each text."""
    return [Item((text,)) for text in texts]


def train_tokenizer() -> PreTrainedTokenizerFast:
    """A WordPiece tokenizer trained on CORPUS."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(
        CORPUS, trainers.WordPieceTrainer(vocab_size=200, special_tokens=special, show_progress=False)
    )
    ids = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ids
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=MAX_LENGTH,
    )


def export_onnx(model: BertForSequenceClassification, file: Path) -> None:
    """The model as an ONNX graph for any number of texts of any length."""
    file.parent.mkdir(parents=True)
    example = {name: torch.ones(2, 7, dtype=torch.int64) for name in ("input_ids", "attention_mask", "token_type_ids")}
    dynamic = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    torch.onnx.export(
        model,
        (),
        str(file),
        kwargs=example,
        input_names=list(example),
        output_names=["logits"],
        dynamic_shapes=dict.fromkeys(example, dynamic),
        dynamo=True,
        verbose=False,
    )
