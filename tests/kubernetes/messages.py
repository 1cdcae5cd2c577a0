"""The agent's own messages for gRPC, compiled from the files that it is built with."""

import importlib
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GENERATED = ROOT / "target/tools/kubernetes/messages"


def load(name):
    """The modules of messages and of services of one of those files."""
    from grpc_tools import protoc
    GENERATED.mkdir(parents=True, exist_ok=True)
    source = ROOT / "src/node/proto"
    code = protoc.main(["protoc", f"-I{source}", f"--python_out={GENERATED}", f"--grpc_python_out={GENERATED}",
                        str(source / f"{name}.proto")])
    assert code == 0, f"protoc ended with {code}"
    if str(GENERATED) not in sys.path:
        sys.path.insert(0, str(GENERATED))
    return importlib.import_module(f"{name}_pb2"), importlib.import_module(f"{name}_pb2_grpc")
