"""What kind of checkpoint lies in some files, told by their content alone and at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .documents import Section, read_json
from .errors import WeightsMismatch
from .files import Files
from .layouts import Layout, recognise
from .safetensors import StoredTensor, read_header

VOXTRAL_REALTIME = "voxtral_realtime"


@dataclass(frozen=True, slots=True)
class Probe:
    """A checkpoint's kind, its config document and the headers of its tensors.

    ``family`` says which engine it is for. ``quantised``: some matrices are stored in groups.
    """

    files: Files
    family: str
    layout: Layout
    document: Section
    tensors: Mapping[str, StoredTensor]

    @property
    def quantised(self) -> bool:
        """Whether any matrix is stored quantised."""
        return any(name.endswith(".scales") for name in self.tensors)

    @property
    def sharded(self) -> bool:
        """Whether the weights are spread over several files."""
        return len(self.files.weights) > 1


def probe(files: Files) -> Probe:
    """Read the config and the tensors' headers; raises DamagedFile or WeightsMismatch."""
    document = read_json(files.config)
    tensors: dict[str, StoredTensor] = {}
    for path in files.weights:
        for name, tensor in read_header(path).items():
            if name in tensors:
                raise WeightsMismatch(f"{name} stands in {tensors[name].file} and in {path}")
            tensors[name] = tensor
    return Probe(files, VOXTRAL_REALTIME, recognise(tensors), document, tensors)
