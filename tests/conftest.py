import contextlib
import signal
from pathlib import Path

TRACES = Path(__file__).parent / "traces"

with contextlib.suppress(ModuleNotFoundError):  # the simulators' tests need no learner
    import torch

    torch.set_num_threads(1)  # results are promised for one thread, and small networks are faster with it

for number, heeded in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:  # as under nohup
        signal.signal(number, heeded)


def pytest_addoption(parser):
    parser.addoption(
        "--traces",
        action="append",
        default=[],
        metavar="DIR",
        help="replay the golden traces in DIR and below as well (repeatable)",
    )


def pytest_generate_tests(metafunc):
    if "trace_path" in metafunc.fixturenames:
        from golden import find_traces

        traces = find_traces([TRACES, *map(Path, metafunc.config.getoption("--traces"))])
        metafunc.parametrize("trace_path", list(traces.values()), ids=list(traces))
    if "saez_path" in metafunc.fixturenames:
        folders = [TRACES, *map(Path, metafunc.config.getoption("--traces"))]
        metafunc.parametrize("saez_path", sorted({p.resolve() for f in folders for p in f.rglob("saez*.npz")}))
