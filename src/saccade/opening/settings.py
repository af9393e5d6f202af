"""How a model is opened: one object, made once from a command line or from Python, and passed whole."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

ATTENTIONS = (
    "sdpa",
    "eager",
    "flash_attention_2",
    "flash_attention_3",
    "flash_attention_4",
    "flex_attention",
)
QUANTIZATIONS = ("int8", "int4", "nf4", "fp8")
SPREADS = ("auto", "balanced", "balanced_low_0", "sequential", "disk")
"""Device maps that have a name; ``disk`` leaves all weights there."""
SHORT = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16", "fp64": "float64"}
OURS = ("output_loading_info", "return_unused_kwargs")
"""Arguments of from_pretrained that change what it gives back."""
HUB = ("revision", "token", "cache_dir", "force_download", "local_files_only", "endpoint")
"""Arguments that say where files come from; once those lie in a folder they have done their work."""


@dataclass(frozen=True)
class Opening:
    """How a model is opened.

    Attributes:
        dtype: Data type of the weights, by name or as torch has it; as saved if None or ``auto``.
        device: ``cpu``, ``cuda``, ``cuda:1``; None or ``auto`` is the accelerator where there is one.
        device_map: How to spread the model, as from_pretrained takes it: ``auto`` fills the devices one after
            the other, then the host's memory, then the disk. Instead of a device.
        attn: Attention implementation: a name that from_pretrained takes.
        revision: Branch, tag or commit of a hub id.
        quantize: Quantise the weights as they are read: ``int8``, ``int4``, ``nf4`` or ``fp8``.
        adapter: A folder or hub id of a PEFT adapter to put on.
        trust_remote_code: Whether code that lies beside the weights may run.
        generic: Whether an adapter made by inspection serves where nobody wrote one for the family.
        accepted: A report of ``saccade check`` that accepted such an adapter for this very model; its plans
            are then taken. It says ``generic``.
        strict: Refuse an adapter that was made for another model of this shape, instead of warning of it.
        more: Whatever else from_pretrained takes.

    Raises:
        ValueError: If a value is none that can be meant, or two contradict each other.
    """

    dtype: torch.dtype | str | None = None
    device: str | None = None
    device_map: Any = None
    attn: str | Mapping[str, str] = "sdpa"
    revision: str | None = None
    quantize: str | None = None
    adapter: str | None = None
    trust_remote_code: bool = False
    generic: bool = False
    accepted: str | None = None
    strict: bool = False
    more: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.quantize is not None and self.quantize not in QUANTIZATIONS:
            raise ValueError(f"no quantisation {self.quantize!r}; there are {', '.join(QUANTIZATIONS)}")
        if self.quantize is not None and "quantization_config" in self.more:
            raise ValueError("give quantize or quantization_config, not both")
        if self.device_map is not None and self.device not in (None, "auto"):
            raise ValueError("give a device or a device map, not both")
        # Names with a slash are kernels of the hub.
        if isinstance(self.attn, str) and self.attn not in ATTENTIONS and "/" not in self.attn:
            raise ValueError(f"no attention implementation {self.attn!r}; there are {', '.join(ATTENTIONS)}")
        if isinstance(self.dtype, str):
            read_dtype_name(self.dtype)
        check_device_name(self.device)
        if isinstance(self.device_map, str) and self.device_map not in SPREADS:
            try:
                check_device_name(self.device_map)
            except ValueError:
                raise ValueError(
                    f"no device map {self.device_map!r}; there are {', '.join(SPREADS)}, or a device"
                ) from None
        names = (("adapter", self.adapter), ("revision", self.revision), ("report", self.accepted))
        for what, value in names:
            if value is not None and not str(value).strip():
                raise ValueError(f"the name of the {what} is empty; leave it out for none")
        if self.accepted is not None:
            object.__setattr__(self, "generic", True)
        taken = [name for name in OURS if name in self.more]
        if taken:
            raise ValueError(f"{', '.join(taken)} cannot be given: it changes what loading gives back")

    @classmethod
    def of(cls, **settings: Any) -> Opening:
        """From arguments as from_pretrained takes them; ``attn_implementation`` and ``torch_dtype`` too."""
        own = {f.name for f in fields(cls)} - {"more"}
        if settings.get("attn_implementation") is not None:
            settings["attn"] = settings.pop("attn_implementation")
        if settings.get("torch_dtype") is not None:
            settings["dtype"] = settings.pop("torch_dtype")
        given = {key: value for key, value in settings.items() if key in own and value is not None}
        return cls(**given, more={key: value for key, value in settings.items() if key not in own})

    def but(self, **changes: Any) -> Opening:
        """The same with some settings changed."""
        return replace(self, **changes)

    def of_process(self, number: int) -> Opening:
        """The same for one of several processes of a machine, which take its accelerators in turn.

        Args:
            number: Which process it is. Where a device is named by its number all take that one.
        """
        import torch

        device = None if self.device_map is not None else self.torch_device()
        if device is None or device.type != "cuda" or device.index is not None:
            return self
        return self.but(device=f"cuda:{number % torch.cuda.device_count()}")

    def told(self) -> dict[str, str]:
        """Settings that are not the defaults, as words, the device left out: for records and hints."""
        plain = (f for f in fields(self) if f.name not in ("device", "strict", "accepted", "more"))
        given = {f.name: getattr(self, f.name) for f in plain if getattr(self, f.name) != f.default}
        return {name: str(value).removeprefix("torch.") for name, value in given.items()}

    def recorded(self) -> dict[str, Any]:
        """Every setting as JSON has it, for provenance: without device, strictness, tokens and objects."""
        left_out = ("device", "strict", "accepted", "more")
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in left_out}
        return {name: _as_json(value) for name, value in {**own, **self.rest}.items()}

    @property
    def hub(self) -> dict[str, Any]:
        """What to tell the hub's client: which revision, which token, where the cache is."""
        found = {key: self.more[key] for key in HUB if key in self.more}
        return found | ({"revision": self.revision} if self.revision is not None else {})

    @property
    def rest(self) -> dict[str, Any]:
        """What else goes to from_pretrained once the files lie in a folder."""
        return {key: value for key, value in self.more.items() if key not in HUB}

    def torch_dtype(self) -> torch.dtype | str:
        """The data type as from_pretrained takes it; ``auto`` is as saved."""
        if self.dtype is None or self.dtype == "auto":
            return "auto"
        return read_dtype(self.dtype) if isinstance(self.dtype, str) else self.dtype

    def torch_device(self) -> torch.device:
        """The device that inputs go to.

        Raises:
            ValueError: If the name is not a device, or this machine has none of it.
        """
        return read_device(self.device)


def _as_json(value: Any) -> Any:
    """A setting as JSON has it; of an object that JSON does not know its kind is told."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping):
        return {str(key): _as_json(each) for key, each in value.items()}
    # Data types and devices are written as they are named.
    words = str(value).removeprefix("torch.")
    return words if words.replace(":", "").isalnum() else type(value).__name__


def read_dtype_name(name: str) -> str:
    """The full name of a data type; ``auto`` is as saved.

    Raises:
        ValueError: If there is no such floating-point type.
    """
    found = SHORT.get(name, name)
    if found not in ("auto", *SHORT.values()):
        raise ValueError(f"no data type {name!r}; use float32, bfloat16 or float16")
    return found


def read_dtype(name: str) -> torch.dtype:
    """A data type by name.

    Raises:
        ValueError: If there is no such floating-point type.
    """
    import torch

    found = getattr(torch, read_dtype_name(name), None)
    if not isinstance(found, torch.dtype):
        raise ValueError(f"no data type {name!r}; use float32, bfloat16 or float16")
    return found


def check_device_name(name: str | None) -> None:
    """Refuses what names no device, without torch; whether it is there is ``read_device``'s to find.

    Raises:
        ValueError: If the name is not a device, or one of a kind that is not supported.
    """
    kind, colon, number = str(name or "auto").partition(":")
    if kind not in ("auto", "cpu", "cuda") or (
        colon and (kind == "auto" or not re.fullmatch(r"\d{1,4}", number))
    ):
        raise ValueError(f"no device {name!r}; write auto, cpu, cuda or cuda:0")


def read_device(name: str | None) -> torch.device:
    """A device that is really there; cuda where there is one if None or ``auto``.

    Raises:
        ValueError: If the name is not a device, or this machine has none of it.
    """
    check_device_name(name)
    import torch

    if name in (None, "auto"):
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device {name} is not there: this machine has {torch.cuda.device_count()} CUDA devices"
        )
    return device
