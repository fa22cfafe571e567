"""GGUF: llama.cpp's own converter is called, its refusals are one line, and the file is scored.

The tests marked llama_cpp need llama-cpp-python and its source distribution, whose path is in
LLAMA_CPP_SDIST: CONTRIBUTING.md says how to get both.
"""

import io
import json
import shutil
import subprocess
import sys
import tarfile
from importlib.util import find_spec
from pathlib import Path

import pytest
from commands import failed, run
from llama_models import SDIST, needs_llama_cpp

import sentilora
from sentilora.errors import DataError, SentiloraError, UsageError
from sentilora.exporting import converter
from sentilora.exporting.gguf import modelfile
from sentilora.exporting.prompt_file import PromptFile


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A hub cache folder of this test's own."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "sentilora"


def archive_of(path, files):
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture
def sdist(tmp_path, monkeypatch):
    """A source distribution with a converter that writes its arguments, and with other files."""
    root = converter._ROOT
    script = b"import sys; open(sys.argv[3], 'w').write(' '.join(sys.argv[4:]))"
    path = archive_of(
        tmp_path / "sdist.tar.gz",
        {
            f"{root}{converter.SCRIPT}": script,
            f"{root}conversion/base.py": b"",
            f"{root}gguf-py/gguf/__init__.py": b"",
            f"{root}LICENSE": b"MIT",
            f"{root}ggml/src/huge.c": b"x",
            f"{root}conversion/../../../../../escaped.py": b"x",
            "setup.py": b"raise SystemExit",
        },
    )
    monkeypatch.setattr(converter, "SDIST_SHA256", converter.digest_of(path))
    return path


def test_only_the_converter_is_unpacked_once(sdist, home, tmp_path):
    with pytest.raises(tarfile.OutsideDestinationError):
        converter.converter_script(sdist)  # a path that leads out is refused, as by tarfile
    assert not list(home.iterdir()) and not (tmp_path / "escaped.py").exists()


def test_the_cache_is_used_from_then_on(sdist, home, monkeypatch, tmp_path):
    good = archive_of(
        sdist,
        {
            f"{converter._ROOT}{converter.SCRIPT}": b"",
            f"{converter._ROOT}conversion/base.py": b"",
            f"{converter._ROOT}ggml/src/huge.c": b"x",
        },
    )
    monkeypatch.setattr(converter, "SDIST_SHA256", converter.digest_of(good))
    script = converter.converter_script(good)
    files = {path.relative_to(script.parent).as_posix() for path in script.parent.rglob("*.*")}
    assert files == {converter.SCRIPT, "conversion/base.py"}
    assert [path.name for path in home.iterdir()] == [script.parent.name]
    good.unlink()
    assert converter.converter_script(good) == script


def test_another_file_is_refused(sdist, tmp_path):
    """What is unpacked is run, so only the one file whose digest is known is taken."""
    sdist.write_bytes(sdist.read_bytes() + b" ")
    for path in (sdist, tmp_path / "none.tar.gz"):
        with pytest.raises(UsageError, match=r"llama_cpp_python-0.3.36.tar.gz \(SHA-256"):
            converter.converter_script(path)


def test_a_download_that_fails_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(DataError, match="pip cannot download llama_cpp_python"):
        converter.converter_script(None)


@pytest.mark.parametrize(
    ("stderr", "kind", "said"),
    [
        ("NotImplementedError: BPE pre-tokenizer was not recognized - update get_vocab_base_pre()",
         UsageError, "does not know the tokenizer of this base; export it as merged"),
        ("ERROR:hf-to-gguf:Model ToyForCausalLM is not supported", UsageError,
         r"does not know this base \(Model ToyForCausalLM is not supported\)"),
        ("KeyError: 'x'", SentiloraError, r"converter failed \(KeyError: 'x'\)"),
    ],
)  # fmt: skip
def test_what_the_converter_refuses_is_one_line(stderr, kind, said, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(f"import sys\nsys.exit({stderr!r})")
    with pytest.raises(kind, match=said) as caught:
        converter.convert(script, tmp_path, tmp_path / "x.gguf", "f16", "x")
    assert "\n" not in str(caught.value) and not (tmp_path / "x.gguf").exists()


def test_without_llama_cpp_nothing_is_begun(toy_run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    failed(2, "pip install 'sentilora[llama-cpp]'", "export", "gguf", tmp_path / "out",
           "--adapter", toy_run)  # fmt: skip
    assert not list(tmp_path.iterdir())


def test_the_modelfile_holds_the_prompt_as_go_reads_it(adapter_export):
    text = modelfile("model-f16.gguf", PromptFile.load(adapter_export))
    assert text.startswith('FROM ./model-f16.gguf\nTEMPLATE """{{ "### Instruction:\\n" }}')
    assert '{{ "\\n\\n### Review:\\n" }}{{ .Prompt }}{{ "\\n\\n### Sentiment:\\n" }}"""' in text
    assert "PARAMETER temperature 0\n" in text and "PARAMETER num_ctx 5" in text


def test_the_modelfile_keeps_quotes_and_sends_records_whole(odd_run, columns_run):
    def prompt_of(folder):
        classifier = sentilora.Classifier.load(folder)
        return PromptFile.of(classifier.prompter, classifier.calibration)

    text = modelfile("x.gguf", prompt_of(odd_run))
    template = text.split('"""')[1]  # the quotes in labels do not end it
    assert text.count('"""') == 2 and r"it's \"a\"" in template
    text = modelfile("x.gguf", prompt_of(columns_run))
    assert 'TEMPLATE """{{ .Prompt }}"""' in text and "# The prompt also shows title" in text


# --- with llama.cpp -------------------------------------------------------------------------------


def put_into_cache(home):
    """Unpack the real converter into this test's cache."""
    return converter.converter_script(Path(SDIST))


class TestWithLlamaCpp:
    pytestmark = needs_llama_cpp

    @pytest.mark.slow
    @pytest.mark.parametrize("form", ["f16", "q8_0", "q4_K_M"])
    def test_a_file_answers_as_the_trained_model(self, form, llama_run, tmp_path, home):
        out = tmp_path / "out"
        code, stdout, stderr = run("export", "gguf", out, "--adapter", llama_run, "--dtype", form,
                                   "--converter", SDIST)  # fmt: skip
        assert code == 0, stderr
        certificate = json.loads((out / "parity.json").read_text())
        assert certificate["rows_with_other_tokens"] == 0 and certificate["rows"] >= 200
        assert certificate["versions"]["llama-cpp-python"]
        assert {path.name for path in out.iterdir()} == {
            f"model-{form}.gguf", "Modelfile", "prompt.json", "parity.json", "parity_rows.jsonl",
            "README.md",
        }  # fmt: skip
        content = (out / f"model-{form}.gguf").read_bytes()
        assert content[:4] == b"GGUF" and str(tmp_path).encode() not in content
        code, stdout, stderr = run("verify", out)
        assert code == 0 and f"gguf, {form}" in stdout, stderr

    def test_a_tokenizer_that_llama_cpp_does_not_know_is_refused(self, tmp_path, home):
        put_into_cache(home)
        failed(2, "llama.cpp's converter does not know the tokenizer of this base; export it as "
               "merged", "export", "gguf", tmp_path / "out")  # fmt: skip
        assert [path.name for path in tmp_path.iterdir()] == ["home"]

    def test_a_damaged_file_is_one_line(self, llama_run, tmp_path, home):
        out = tmp_path / "out"
        sentilora.export("gguf", out, adapter=llama_run, converter=SDIST)
        record = json.loads((out / "parity.json").read_text())
        file = out / "model-f16.gguf"
        file.write_bytes(file.read_bytes()[:1000])
        record["sha256"]["model-f16.gguf"] = converter.digest_of(file)
        (out / "parity.json").write_text(json.dumps(record))
        failed(3, "llama.cpp cannot load", "verify", out)
        shutil.rmtree(out)


@pytest.mark.llama_cpp
def test_nothing_is_reported_at_exit():
    """After the result stood two lines: ResourceWarning: unclosed file, name='/dev/null'."""
    if find_spec("llama_cpp") is None:  # not imported here, where it would report the same
        pytest.skip("needs llama-cpp-python")
    code = "from sentilora.exporting.own_runtime import import_llama_cpp; import_llama_cpp()"
    command = [sys.executable, "-W", "always::ResourceWarning", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "/dev/null" not in done.stderr
