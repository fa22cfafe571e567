"""What the tests share: no network, a toy base that is made in a second, a finished run on it."""

import gc
import json
import os
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

# Before anything imports torch or huggingface_hub. An address that refuses at once stands for a hub
# that cannot be reached; HF_HUB_OFFLINE stays unset, for with it nobody would even try.
os.environ["HF_ENDPOINT"] = "http://127.0.0.1:9"
for name in ("HF_HUB_OFFLINE", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
    os.environ.pop(name, None)
os.environ["OMP_WAIT_POLICY"] = "passive"
os.environ["GOMP_SPINCOUNT"] = "0"
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["TQDM_DISABLE"] = "1"
# Toy models have nothing for a second thread, and the workers share the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
TESTS = Path(__file__).resolve().parent
SOURCE = TESTS.parent / "src"
# For the commands that tests start in other folders; what else is on the path stays there.
paths = [str(SOURCE), str(TESTS / "absent"), *filter(None, [os.environ.get("PYTHONPATH")])]
os.environ["PYTHONPATH"] = os.pathsep.join(paths)

import pytest  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

# A machine that others use too is no reason to fail. No database: a test leaves nothing behind.
settings.register_profile(
    "tests", deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("tests")


# What a test writes need not outlive a power failure, and waiting for the disk was half the time of
# a short run.
os.fsync = lambda handle: None

NUM_MODULES = 100  # imported since: worth another look
frozen = 0


def keep_out_of_garbage_collections():
    """What is imported by now stays to the end: a third of the tests' time went into walking it."""
    global frozen
    gc.collect()
    gc.freeze()
    frozen = len(sys.modules)


def pytest_collection_finish():
    keep_out_of_garbage_collections()


def pytest_runtest_logfinish():
    """Training imports most when it starts, within a test or a fixture."""
    if len(sys.modules) > frozen + NUM_MODULES:
        keep_out_of_garbage_collections()


BROWSER = os.environ.get("CHROMIUM") or shutil.which("chromium")


@pytest.fixture(scope="module")
def chromium():
    """A browser for the tests of pages."""
    if BROWSER is None or find_spec("playwright") is None:
        pytest.skip("no chromium here (Debian's package, or CHROMIUM=path) or no playwright")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=BROWSER, args=["--no-sandbox", "--disable-gpu"]
        )
        yield browser
        browser.close()


# --- nothing is skipped but what needs a GPU, where that is asked for: .ci/run does


def pytest_addoption(parser):
    parser.addoption(
        "--only-gpu-skips",
        action="store_true",
        help="fail if a test is skipped that is not marked gpu",
    )


def skips(config):
    """([tests skipped that are marked gpu], [marked llama_cpp], [the others]), as their reports."""
    reports = config.pluginmanager.get_plugin("terminalreporter").stats.get("skipped", [])
    gpu, llama_cpp = (
        [report for report in reports if mark in getattr(report, "keywords", ())]
        for mark in ("gpu", "llama_cpp")
    )
    return gpu, llama_cpp, [report for report in reports if report not in [*gpu, *llama_cpp]]


def pytest_sessionfinish(session):
    is_worker = hasattr(session.config, "workerinput")
    if not is_worker and session.config.getoption("only_gpu_skips") and skips(session.config)[2]:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter, config):
    if config.getoption("only_gpu_skips"):
        gpu, llama_cpp, others = skips(config)
        terminalreporter.write_line(f"skipped: {len(gpu)} for want of a GPU, {len(others)} others")
        if llama_cpp:
            terminalreporter.write_line(f"skipped: {len(llama_cpp)} for want of llama-cpp-python")
        for report in others:
            terminalreporter.write_line(f"must not be skipped: {report.nodeid}", red=True)


@pytest.fixture(scope="session")
def toy_base(tmp_path_factory):
    """Folder of a random Mistral of two layers in float32, with a tokenizer of 1,000 tokens."""
    import torch
    from toy_tokenizers import make_tokenizer
    from transformers import AutoModelForCausalLM, MistralConfig

    from sentilora.shipped import reviews_path

    folder = tmp_path_factory.mktemp("toy") / "base"
    # Some reviews are enough, and with the same ones the base stays the same when more are added.
    lines = reviews_path("train").read_text(encoding="utf-8").splitlines()[:428]
    tokenizer = make_tokenizer([json.loads(line)["text"] for line in lines], 1000)
    tokenizer.save_pretrained(folder)
    config = MistralConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=2048,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        sliding_window=None,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def toy_tokenizer(toy_base):
    """The tokenizer of the toy base."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(toy_base)


@pytest.fixture(scope="session")
def toy_run(toy_base, tmp_path_factory):
    """Folder of a finished run: four steps on the toy base, with the reviews that ship."""
    from sentilora.config import load_config
    from sentilora.stages.train import train

    folder = tmp_path_factory.mktemp("toy") / "run"
    overrides = ["training.max_steps=4", "training.eval_steps=2", "training.save_steps=2",
                 "data.num_train=48", "data.num_evaluation=16"]  # fmt: skip
    values = {"base.name": str(toy_base), "output_dir": str(folder)}
    train(load_config("tiny", overrides=overrides, values=values))
    return folder
