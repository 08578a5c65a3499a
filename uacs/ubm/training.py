"""Training a UBM (Eq. 9): squared error plus cross entropy, Table I's rates, early stopping, resumable.

The head that foresees the regressor's error (PTD) learns beside it, by the absolute difference; the others do not
notice. When all is done, the other estimators learn from split valid what they need (uacs.cascade.estimators).

An epoch's order and dropout depend on seed and epoch alone, so a training that was interrupted and
resumed gives the same weights, on the same machine bit by bit, as one that was not.

Processes that torch.distributed has joined train one UBM together: each takes its share of every batch,
and a step is the one that a single process would make of the whole batch. All keep the same weights; the
first alone validates and writes.
"""

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import distributed, nn

from uacs import fingerprints, metrics
from uacs.cascade import estimators
from uacs.cascade.estimators import SmallAnswers, estimates
from uacs.cascade.uncertainty import training_class
from uacs.data.prepared import PreparedDataset
from uacs.errors import BadInput, Refused, UacsError
from uacs.records import Sample
from uacs.ubm import folder as ubm_folder
from uacs.ubm.batches import Encoded, check, collate, encode
from uacs.ubm.estimating import save_fitted
from uacs.ubm.model import Heads, Ubm
from uacs.ubm.settings import TrainingSettings, UbmConfig, load_config

Epoch = dict[str, float]
PASSING = ("estimator", "members", "device", "threads")
WINDOW = 16  # batches that are sorted by length together


class Diverged(UacsError):
    """The loss is no number any more."""


@dataclass(frozen=True)
class Answered:
    """What an epoch's UBM answers about the N samples that it is validated by, as `SmallPredictor` would.

    y (N,), u (N,) by its estimator, p (N, 3) by `Polarity`; of an ensemble, which is yet to come, u is its entropy.
    """

    sample_ids: list[str]
    y: np.ndarray
    u: np.ndarray
    p: np.ndarray


def train(
    dataset: PreparedDataset,
    text_encoder: str,
    settings: TrainingSettings,
    out: Path,
    progress: Callable[[Epoch], None] | None = None,
    answers: Callable[[Epoch, Answered], None] | None = None,
    without: frozenset[str] = frozenset(),
) -> list[Epoch]:
    """Train on split train, stop by split valid, leave the best epoch in `out`; returns the epochs.

    Samples of split train that `without` names are passed over; nothing of theirs is in the UBM.

    A training that was cut off is taken up where its last epoch ended, by as many processes as there are
    now. `answers` hears of an epoch before it is saved, and so again if the training is cut off in between;
    `progress` hears of it once that is done. Raises `Refused` if `out` holds a finished UBM or one begun with
    other settings or data, and `Diverged` where the learning rates were too high.
    """
    begun = begun_in(out, dataset, text_encoder, settings, without)
    config = _config(dataset, text_encoder, settings)
    rank, size = _place()

    torch.manual_seed(settings.seed)
    torch.set_num_threads(settings.threads)
    model, tokenizer = ubm_folder.new(config)
    training = _Split(dataset, "train", tokenizer, config, without)
    valid = _Split(dataset, "valid", tokenizer, config)
    _standardise(model, training.encoded)
    model.to(settings.device)
    optimiser = torch.optim.Adam(_parameter_groups(model, settings))
    epochs = _load_state(out, model, optimiser) if begun else []

    out.mkdir(parents=True, exist_ok=True)
    while not finished(epochs, settings):
        started = time.perf_counter()
        train_loss = _train_epoch(model, optimiser, training, settings, len(epochs))
        epoch, answered = {"epoch": len(epochs) + 1, "train_loss": train_loss}, None
        if rank == 0:
            valid_loss, said = _answer(model, valid, config)
            _refuse_diverged(epoch, valid_loss, said)
            answered = _by_estimator(said, valid, config)
            named = metrics.score(answered.y, valid.labels.double().numpy(), config.like)
            epoch |= {"valid_loss": valid_loss, "valid_acc2": named["acc2"], "valid_mae": named["mae"]}
        epoch["seconds"] = time.perf_counter() - started
        epochs.append(_of_the_first(epoch))
        if rank == 0:
            if answers and answered:
                answers(epoch, answered)
            _save_epoch(out, model, optimiser, epochs, config.model_dump() | _data(dataset, without))
            if progress:
                progress(epoch)

    if size > 1:
        distributed.barrier()  # the state goes now, and whoever took up a finished training may still read it
    if rank == 0:
        told = {"left_out": training.left_out + valid.left_out, "data": _data(dataset, without)}
        _save_best(out, model, tokenizer, config, epochs, told, valid)
    return epochs


def begun_in(
    out: Path,
    dataset: PreparedDataset,
    text_encoder: str,
    settings: TrainingSettings,
    without: frozenset[str] = frozenset(),
) -> bool:
    """Whether `out` holds the state of this very training; raises `Refused` for another's or a finished UBM."""
    if not (out / "unfinished" / "state.pt").exists():
        if (out / "config.json").exists():
            raise Refused(f"{out}: a trained model lies there; name another --out or remove it")
        return False
    begun = _lasting(json.loads((out / "unfinished" / "identity.json").read_text()))
    if different := differing(begun, identity(dataset, text_encoder, settings, without)):
        raise Refused(f"{out}: a training with other {different} was begun there; name another --out")
    return True


def finished_in(
    out: Path,
    dataset: PreparedDataset,
    text_encoder: str,
    settings: TrainingSettings,
    without: frozenset[str] = frozenset(),
) -> list[Epoch]:
    """The epochs of this very training if it has left its UBM in `out`, else none; raises `Refused` for another's UBM.

    Of a UBM made before training.json told its data, the data are taken to be these.
    """
    record = out / "training.json"
    if (out / "unfinished" / "state.pt").exists() or not ((out / "config.json").exists() and record.exists()):
        return []
    now, told = identity(dataset, text_encoder, settings, without), json.loads(record.read_text())
    made = _lasting(load_config(out).model_dump(mode="json")) | told.get("data", _data(dataset, without))
    if different := differing(made, now):
        raise Refused(f"{out}: a trained model lies there, of other {different}; name another --out or remove it")
    return told["epochs"]


def identity(
    dataset: PreparedDataset, text_encoder: str, settings: TrainingSettings, without: frozenset[str] = frozenset()
) -> dict:
    """What a training's outcome depends on, as JSON has it; how many processes share it may change."""
    return _lasting(_config(dataset, text_encoder, settings).model_dump(mode="json")) | _data(dataset, without)


def _lasting(told: dict) -> dict:
    """A UBM's config without what is no part of it: how its doubts are estimated, and where it was trained."""
    training = {name: value for name, value in told["training"].items() if name not in PASSING}
    return {name: value for name, value in told.items() if name != "estimator"} | {"training": training}


def differing(begun: dict, now: dict) -> str:
    """The names in which two identities differ, empty if they do not."""
    return ", ".join(name for name in now | begun if begun.get(name) != now.get(name))


def _config(dataset: PreparedDataset, text_encoder: str, settings: TrainingSettings) -> UbmConfig:
    return UbmConfig(
        dataset=dataset.info.name,
        like=dataset.info.like,
        language=dataset.info.language,
        score_range=dataset.info.score_range,
        features=dataset.info.features,
        text_encoder=text_encoder,
        estimator=settings.estimator,
        training=settings,
    )


def _data(dataset: PreparedDataset, without: frozenset[str]) -> dict:
    """What is learned from and stopped by; samples are named only where some are left out."""
    left_out = {"without": fingerprints.of_settings(sorted(without))} if without else {}
    return {split: dataset.checksum(split) for split in ("train", "valid")} | left_out


class _Split:
    """A split's labelled samples that can be read, encoded once, with their scores (N,) and classes (N,).

    Those that `without` names are passed over. Read part by part, so that features are held once:
    MOSEI's take gigabytes.
    """

    def __init__(
        self,
        dataset: PreparedDataset,
        split: str,
        tokenizer,
        config: UbmConfig,
        without: frozenset[str] = frozenset(),
    ):
        self.encoded: list[Encoded] = []
        self.sample_ids: list[str] = []
        self.left_out: list[str] = []
        labels: list[float] = []
        for part in dataset.parts(split):
            found = dataset.read(part)
            labelled = [s for s in found if s.label is not None and s.sample_id not in without]
            samples = self._readable(labelled, config)
            encoded = encode(samples, tokenizer, config.features, config.training.max_text_tokens)
            # features are views of their part, all of which one of them would keep
            self.encoded += encoded if len(samples) == len(found) else [row.copied() for row in encoded]
            self.sample_ids += [s.sample_id for s in samples]
            labels += [s.label for s in samples if s.label is not None]
        if not labels and self.left_out:
            raise BadInput(self.left_out[0])
        if not labels:
            raise BadInput(f"{dataset.folder}: no sample of split '{split}' has a label to learn from")
        self.labels = torch.tensor(np.array(labels), dtype=torch.float32)
        self.classes = torch.tensor(training_class(np.array(labels)))

    def _readable(self, samples: list[Sample], config: UbmConfig) -> list[Sample]:
        """Those that the UBM can learn from; why the others are left out is noted."""
        readable = []
        for sample in samples:
            try:
                check(sample, config.features)
                readable.append(sample)
            except BadInput as error:
                self.left_out.append(str(error))
        return readable


def _loss(model: Ubm, split: _Split, chosen: list[int], device: str) -> tuple[torch.Tensor, torch.Tensor, Heads]:
    """Eq. 9, the mean over a batch; how far off the foreseen error is, in the mean; and what all heads say."""
    batch = {name: rows.to(device) for name, rows in collate([split.encoded[i] for i in chosen]).items()}
    heads = model(batch, len(chosen))
    labels, classes = split.labels[chosen].to(device), split.classes[chosen].to(device)
    loss = nn.functional.mse_loss(heads.score, labels) + nn.functional.cross_entropy(heads.logits, classes)
    return loss, nn.functional.l1_loss(heads.deviation, (heads.score.detach() - labels).abs()), heads


def _train_epoch(model: Ubm, optimiser, split: _Split, settings: TrainingSettings, epoch: int) -> float:
    """Step through this process's share of every batch; returns the mean loss over the samples of all."""
    seed, (rank, size) = settings.seed * 10_000 + epoch, _place()
    torch.manual_seed(seed + 1_000 * rank)  # dropout
    batches = _batches(split, settings.batch_size, np.random.default_rng(seed))
    model.train()
    total = 0.0
    for start in range(0, len(batches), settings.accumulate):
        group = batches[start : start + settings.accumulate]
        optimiser.zero_grad()
        for chosen in group:
            if share := chosen[rank::size]:  # empty if the batch has fewer rows than there are processes
                loss, foreseen, _ = _loss(model, split, share, settings.device)
                ((loss + foreseen) * (len(share) / len(chosen)) / len(group)).backward()
                total += loss.item() * len(share)
        if size > 1:
            _sum_gradients(model)
        optimiser.step()
    if size > 1:
        totals = torch.tensor(total, dtype=torch.float64, device=settings.device)
        distributed.all_reduce(totals)
        total = totals.item()
    return total / len(split.encoded)


def _place() -> tuple[int, int]:
    """This process's rank, and how many train together: (0, 1) unless torch.distributed has joined them."""
    together = distributed.is_available() and distributed.is_initialized()
    return (distributed.get_rank(), distributed.get_world_size()) if together else (0, 1)


def _sum_gradients(model: Ubm) -> None:
    """Make the gradients of each process the sum of all, in one exchange.

    By hand, since DistributedDataParallel wants a forward pass of every process in every batch, and a batch
    may have fewer rows than there are processes. A parameter that no row of any has used keeps no gradient:
    one of zeros would let Adam's momentum and decay move it.
    """
    parameters = list(model.parameters())
    used = torch.tensor([float(p.grad is not None) for p in parameters], device=parameters[0].device)
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    summed = torch.cat([*(g.flatten() for g in gradients), used])
    distributed.all_reduce(summed)
    *gradients, used = summed.split([*(p.numel() for p in parameters), len(parameters)])
    for parameter, gradient, users in zip(parameters, gradients, used.tolist(), strict=True):
        parameter.grad = gradient.view_as(parameter) if users else None


def _of_the_first(epoch: Epoch) -> Epoch:
    """The epoch as the first process tells it, so that all of them stop by the same figures."""
    told = [epoch]
    if _place()[1] > 1:
        distributed.broadcast_object_list(told)
    return told[0]


def _batches(split: _Split, size: int, draw: np.random.Generator) -> list[list[int]]:
    """Random batches of texts of like length: drawn in random windows, sorted there, shuffled again.

    On MOSI this halves an epoch, which is otherwise mostly padding.
    """
    order = draw.permutation(len(split.encoded))
    batches = []
    for start in range(0, len(order), size * WINDOW):
        window = sorted(order[start : start + size * WINDOW].tolist(), key=lambda i: split.encoded[i].text_length)
        batches += [window[i : i + size] for i in range(0, len(window), size)]
    return [batches[i] for i in draw.permutation(len(batches))]


def _answer(model: Ubm, split: _Split, config: UbmConfig) -> tuple[float, SmallAnswers]:
    """The mean loss (Eq. 9) over a split, and the answers about its samples."""
    model.eval()
    total, said = 0.0, []
    device = str(next(model.parameters()).device)
    with torch.inference_mode():
        for start in range(0, len(split.encoded), 64):
            chosen = list(range(start, min(start + 64, len(split.encoded))))
            loss, _, heads = _loss(model, split, chosen, device)
            total += loss.item() * len(chosen)
            said.append(heads)
    score, logits, ptd = (torch.cat(values).double().cpu() for values in zip(*said, strict=True))
    p = torch.softmax(logits, dim=-1)
    return total / len(split.encoded), SmallAnswers(score.numpy(), p.numpy(), config.top, ptd.numpy())


def _by_estimator(answers: SmallAnswers, split: _Split, config: UbmConfig) -> Answered:
    name = "cbe" if config.estimator == "ev" else config.estimator
    fitted = _fit(answers, split, config) if name in estimators.LEARNED else None
    return Answered(split.sample_ids, answers.y, estimates(answers, fitted)[name], answers.p)


def _fit(answers: SmallAnswers, split: _Split, config: UbmConfig) -> estimators.Fitted:
    return estimators.fit(answers, split.labels.double().numpy(), config.like)


def _refuse_diverged(epoch: Epoch, valid_loss: float, answers: SmallAnswers) -> None:
    if not (
        np.isfinite([epoch["train_loss"], valid_loss]).all()
        and all(np.isfinite(v).all() for v in (answers.y, answers.p))
    ):
        losses = f"the loss is {epoch['train_loss']:g} in training, {valid_loss:g} in validation"
        raise Diverged(f"epoch {epoch['epoch']}: {losses}; lower the learning rates")


def _standardise(model: Ubm, samples: list[Encoded]) -> None:
    """Mean and spread of each feature over all training steps; a constant feature keeps scale 1."""
    for modality, encoder in model.encoders.items():
        sequences = [s.values[modality] for s in samples if modality in s.values]
        if modality == "text" or not sequences:
            continue
        steps = sum(len(s) for s in sequences)
        mean, square = (torch.zeros(sequences[0].shape[1], dtype=torch.float64) for _ in range(2))
        # sequence by sequence, keeping nothing: all steps at once would double what the features take
        for s in sequences:
            mean += torch.tensor(s, dtype=torch.float64).sum(dim=0) / steps
        for s in sequences:
            square += (torch.tensor(s, dtype=torch.float64) - mean).square().sum(dim=0) / steps
        spread = square.sqrt()
        encoder.mean.copy_(mean)
        encoder.scale.copy_(torch.where(spread > 1e-8, spread, 1.0))


def _parameter_groups(model: Ubm, s: TrainingSettings) -> list[dict]:
    """Table I's components; BERT's biases and LayerNorms do not decay (Self-MM)."""
    rates = {"text": (s.lr_text, s.decay_text), "audio": (s.lr_audio, s.decay_audio)}
    rates |= {"vision": (s.lr_vision, s.decay_vision), "other": (s.lr_other, s.decay_other)}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        component = name.split(".")[1] if name.startswith("encoders.") else "other"
        rate, decay = rates[component]
        undecayed = component == "text" and (name.endswith(".bias") or "LayerNorm" in name)
        groups.setdefault((rate, 0.0 if undecayed else decay), []).append(parameter)
    return [{"params": p, "lr": rate, "weight_decay": decay} for (rate, decay), p in groups.items()]


def best_epoch(epochs: list[Epoch]) -> int:
    """The epoch of the smallest validation MAE, which is the loss that Self-MM stops by."""
    return min(range(len(epochs)), key=lambda i: epochs[i]["valid_mae"])


def finished(epochs: list[Epoch], settings: TrainingSettings) -> bool:
    """Whether a training ends with the last of these epochs, for want of betterment or by their number."""
    if not epochs:
        return False
    return len(epochs) >= settings.max_epochs or len(epochs) - 1 - best_epoch(epochs) >= settings.patience


def _load_state(out: Path, model: Ubm, optimiser) -> list[Epoch]:
    state = torch.load(out / "unfinished" / "state.pt", map_location="cpu", weights_only=True)
    if not any(name.startswith("deviation.") for name in state["model"]):
        raise Refused(f"{out}: a training was begun there by an earlier version; remove it, or name another --out")
    model.load_state_dict(state["model"])
    optimiser.load_state_dict(state["optimiser"])
    return state["epochs"]


def _save_epoch(out: Path, model: Ubm, optimiser, epochs: list[Epoch], identity: dict) -> None:
    """Keep the weights if they are the best so far, and the state from which to go on."""
    if best_epoch(epochs) == len(epochs) - 1:
        ubm_folder.save_weights(model, out)
    place = out / "unfinished"
    place.mkdir(exist_ok=True)
    (place / "identity.json").write_text(json.dumps(identity))
    aside = place / "state.partial"
    torch.save({"model": model.state_dict(), "optimiser": optimiser.state_dict(), "epochs": epochs}, aside)
    aside.replace(place / "state.pt")


def _save_best(
    out: Path, model: Ubm, tokenizer, config: UbmConfig, epochs: list[Epoch], told: dict, valid: _Split
) -> None:
    model.load_state_dict(ubm_folder.load_weights(out))
    save_fitted(_fit(_answer(model, valid, config)[1], valid, config), out)
    ubm_folder.save(model, tokenizer, config, out)
    record = {"best_epoch": best_epoch(epochs) + 1, "epochs": epochs} | told
    (out / "training.json").write_text(json.dumps(record, indent=1))
    (out / "unfinished" / "state.pt").unlink()  # first: by it a training counts as unfinished
    shutil.rmtree(out / "unfinished")
