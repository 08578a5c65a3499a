"""Tensors without numbers, and what tensors take in memory: for rehearsing a computation without its device."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from weakref import ref

import torch
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from uacs.mllm.native import beats


class Shape(torch.Tensor):
    """A tensor on the CPU, for all that can be asked of it but its numbers: it has none, and takes no memory."""

    meta: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, meta: torch.Tensor):
        """Of a tensor on the meta device."""
        how = {"strides": meta.stride(), "storage_offset": meta.storage_offset(), "dtype": meta.dtype, "device": "cpu"}
        made = torch.Tensor._make_wrapper_subclass(cls, meta.shape, **how)
        made.meta = meta
        return made

    @classmethod
    def of(cls, shape: Sequence[int], dtype: torch.dtype) -> "Shape":
        """A new one."""
        return cls(torch.empty(shape, dtype=dtype, device="meta"))

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        """An operation as the meta device does it."""
        kwargs = dict(kwargs or {})
        if kwargs.get("device") is not None:
            kwargs["device"] = "meta"
        metas = {}

        def inside(value):
            if isinstance(value, Shape):
                metas[id(value.meta)] = value
                return value.meta
            return value.to("meta") if isinstance(value, torch.Tensor) else value

        def outside(value):
            if not isinstance(value, torch.Tensor):
                return value
            return metas[id(value)] if id(value) in metas else cls(value)

        return tree_map(outside, function(*tree_map(inside, args), **tree_map(inside, kwargs)))


class Meter(TorchDispatchMode):
    """Counts the bytes of tensors that are made within it: of those that are `live`, and of the most that were."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: dict[int, ref] = {}  # by storage: views of a tensor are no more than that tensor

    def hold(self, tensors: Iterable[torch.Tensor]) -> int:
        """Count tensors that are there already; returns the bytes of those that were not counted before."""
        before = self.live
        for tensor in tensors:
            self._count(tensor)
        return self.live - before

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        """Every operation on tensors, forwards and backwards."""
        made = function(*_marked(function, args), **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor)
        return made

    def _count(self, tensor: torch.Tensor) -> None:
        storage = (tensor.meta if isinstance(tensor, Shape) else tensor).untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self._known:
            self._known[key] = ref(storage, lambda _: self._drop(key, size))
            self.live += size
            self.peak = max(self.peak, self.live)

    def _drop(self, key: int, size: int) -> None:
        del self._known[key]
        self.live -= size


def _marked(function, args: tuple) -> tuple:
    """The arguments of an indexing with real masks as the places that they mark: shapes alone do not tell how many."""
    if function not in (torch.ops.aten.index.Tensor, torch.ops.aten.index_put_.default):
        return args
    where: list = []
    for one in args[1]:
        real = isinstance(one, torch.Tensor) and not isinstance(one, Shape) and one.dtype == torch.bool
        where += one.nonzero(as_tuple=True) if real else [one]
    return (args[0], where, *args[2:])


def _layer_norm(x, shape, weight=None, bias=None, eps=1e-5) -> torch.Tensor:
    """In float32 where a GPU's autocast reigns."""
    if torch.is_autocast_enabled("cpu"):
        x, weight, bias = (None if one is None else one.float() for one in (x, weight, bias))
    return torch.layer_norm(x, shape, weight, bias, eps)


def _dropout(x, p=0.5, training=True, inplace=False) -> torch.Tensor:
    """With a mask of a byte an element."""
    return torch.native_dropout(x, p, True)[0] if training and p else x


def _attention(q, k, v, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False) -> torch.Tensor:
    """By the kernel that a GPU would take: flash attention, the one that takes masks and float32, or none."""
    of, kind = torch.ops.aten, torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else q.dtype
    q, k, v = q.to(kind), k.to(kind), v.to(kind)
    if attn_mask is None and kind != torch.float32:
        return of._scaled_dot_product_flash_attention(q, k, v, dropout_p, is_causal, scale=scale)[0]
    if q.shape[1] != k.shape[1]:
        grouped = {"scale": scale, "enable_gqa": enable_gqa}
        return of._scaled_dot_product_attention_math(q, k, v, attn_mask, dropout_p, is_causal, **grouped)[0]
    if attn_mask is not None:
        added = q.new_zeros(attn_mask.shape) if attn_mask.dtype == torch.bool else attn_mask.to(kind)
        length = added.shape[-1]  # whose rows begin at every 16th
        attn_mask = functional.pad(added, (0, -length % 16))[..., :length].expand(*q.shape[:3], length)
    return of._scaled_dot_product_efficient_attention(q, k, v, attn_mask, True, dropout_p, is_causal, scale=scale)[0]


ON_CUDA = (
    (functional, "layer_norm", _layer_norm),
    (functional, "dropout", _dropout),
    (functional, "scaled_dot_product_attention", _attention),
    (beats, "scaled_dot_product_attention", _attention),
)
"""Operations for which a GPU holds more or less in memory than a CPU, and where they are called from."""


@contextmanager
def as_on_cuda(autocast: bool) -> Iterator[None]:
    """Within it shapes take the room that they would on a GPU."""
    theirs = [getattr(module, name) for module, name, _ in ON_CUDA]
    try:
        torch.set_autocast_enabled("cuda", autocast)  # peft's 4-bit layers ask for this one
        for module, name, ours in ON_CUDA:
            setattr(module, name, ours)
        yield
    finally:
        torch.set_autocast_enabled("cuda", False)
        for (module, name, _), its in zip(ON_CUDA, theirs, strict=True):
            setattr(module, name, its)
