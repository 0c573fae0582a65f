"""timm and torchvision come without torch's compiler, and the compiler is whole for whoever wants it."""

from __future__ import annotations

import gc
import subprocess
import sys
from importlib import import_module

import pytest

from headstart.sources._importing import uncollected

COSTLY = (
    *("torch._dynamo", "torch._inductor", "sympy", "triton.runtime", "sklearn", "scipy", "accelerate", "pandas"),
    *("onnx", "onnxruntime", "openvino", "pyarrow"),
)


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_every_run_loads_holds_no_compiler_no_solver_and_no_engine() -> None:
    code = f"""
import sys
import headstart.record, headstart.stages
from headstart.sources import open_source
source = open_source("toy")
import torch
source(torch.zeros(1, *source.card.input_size))
print([name for name in {COSTLY!r} if name in sys.modules])
"""
    assert run(code).strip() == "[]"


def test_the_compiler_is_whole_after_timm_was_imported() -> None:
    code = """
import sys
from headstart.sources._importing import import_timm
import_timm()
import torch
own = torch.compiler.disable
import torch._dynamo
import torch._dynamo.utils as utilities
from torchvision.ops import roi_align
import torchvision.ops.roi_align
place = sys.modules["torchvision.ops.roi_align"]
assert utilities.__file__.endswith("utils.py"), utilities
assert place.is_compile_supported("cpu") == utilities.is_compile_supported("cpu")
assert own.__module__ == "torch.compiler", own
compiled = torch.compile(lambda x: x + 1, backend="eager")
assert float(compiled(torch.ones(()))) == 2
from timm.models.naflexvit import NaFlexRopeIterator
boxes = torch.tensor([[0, 0.0, 0, 2, 2]])
assert roi_align(torch.ones(1, 1, 4, 4), boxes, 2).shape == (1, 1, 2, 2)
print("whole")
"""
    assert run(code).strip() == "whole"


def test_a_compiler_that_is_there_already_is_left_alone() -> None:
    code = """
import torch._dynamo.utils as real
import sys
from headstart.sources._importing import import_timm
import_timm()
assert sys.modules["torch._dynamo.utils"] is real
print(sys.modules["torchvision.ops.roi_align"].is_compile_supported is real.is_compile_supported)
"""
    assert run(code).strip() == "True"


def test_the_collector_rests_while_modules_are_made_and_no_longer() -> None:
    assert gc.isenabled()
    with uncollected():
        assert not gc.isenabled()
        with uncollected():
            pass
        assert not gc.isenabled()  # of two blocks the outer one ends it
    assert gc.isenabled()
    with pytest.raises(ImportError), uncollected():
        import_module("no_such_module_at_all")
    assert gc.isenabled()
