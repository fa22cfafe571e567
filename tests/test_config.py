"""config.py: a preset changed by files and overrides, and what is refused."""

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentilora.config import load_config, parse_override, read_config
from sentilora.errors import DataError, UsageError

KEYS = set(load_config("mistral-7b").flat())


def differences(one, other):
    return {key: value for key, value in other.flat().items() if one.flat()[key] != value}


def refused(match, **kwargs):
    with pytest.raises(UsageError, match=match) as error:
        load_config(**kwargs)
    return str(error.value)


# --- overrides


@pytest.mark.parametrize(
    ("item", "value"),
    [
        ("a.b=1", 1),
        ("a.b=1e-4", 1e-4),
        ("a.b=true", True),
        ('a.b="1"', "1"),
        ('a.b=["x", "y"]', ["x", "y"]),
        ('a.b={ 0 = "no", 1 = "yes" }', {"0": "no", "1": "yes"}),
        ("a.b=plain words", "plain words"),
        ("a.b=x=y", "x=y"),
        ("a.b=", ""),
        ("a.b={text}\nAnswer:\n", "{text}\nAnswer:\n"),
        ("a.b=1\nc = 2", "1\nc = 2"),
        (" a.b =../folder with spaces/x.csv", "../folder with spaces/x.csv"),
    ],
)
def test_an_override_is_toml_where_it_can_be(item, value):
    assert parse_override(item) == ("a.b", value)


@pytest.mark.parametrize("item", ["", "training.seed", "=1", " = 1"])
def test_an_override_without_key_or_value_is_refused(item):
    with pytest.raises(UsageError, match=r"write section\.key=value, e\.g\. training\.seed=1"):
        parse_override(item)


def test_later_layers_win(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text("[training]\nseed = 1\nlearning_rate = 1e-3\nmax_steps = 7\n")
    config = load_config(
        "tiny", file, ["training.seed=2", "training.learning_rate=5e-4"], {"training.seed": 3}
    )
    training = config.training
    assert (training.seed, training.learning_rate, training.max_steps) == (3, 5e-4, 7)


def test_a_label_map_is_replaced_whole_or_extended_by_a_key():
    whole = load_config(overrides=['data.label_map={ yes = "positive" }'])
    assert whole.data.label_map == {"yes": "positive"}
    extended = load_config(overrides=["data.label_map.yes=positive"])
    assert extended.data.label_map == {**load_config().data.label_map, "yes": "positive"}


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("training.lr", "training.learning_rate"),
        ("lr", "training.learning_rate"),
        ("training.learning_rat", "training.learning_rate"),
        ("learning_rate", "training.learning_rate"),
        ("lora.learning_rate", "training.learning_rate"),
        ("training.epochs", "training.num_train_epochs"),
        ("training.train_batch_size", "training.per_device_train_batch_size"),
        ("training.warmup_step", "training.warmup_steps"),
        ("lora.alpha", "lora.lora_alpha"),
        ("lora.dropout", "lora.lora_dropout"),
        ("lora.target_module", "lora.target_modules"),
        ("base.model", "base.name"),
        ("model.name", "base.name"),
        ("base.dtype", "base.compute_dtype"),
        ("data.tset", "data.test"),
        ("data.seed", "data.shuffle_seed"),
        ("prompt.label", "prompt.labels"),
        ("max_length", "prompt.max_length"),
        ("output", "output_dir"),
        ("Training.Seed", "training.seed"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_known(key, near):
    pattern = f"there is no setting '{key}'; did you mean '{near}'\\?"
    refused(pattern, overrides=[f"{key}=1"])
    with pytest.raises(UsageError, match=pattern):
        load_config().with_values({key: 1})


def test_keys_that_are_equally_near_are_all_named():
    refused(
        "did you mean 'training.per_device_eval_batch_size' or "
        "'training.per_device_train_batch_size'",
        overrides=["training.batch_size=1"],
    )
    refused("'training.warmup_ratio' or 'training.warmup_steps'", overrides=["training.warmup=1"])


@pytest.mark.parametrize("key", ["output_dir.x", "training.seed.x", "a.b.c.d", ".", ""])
def test_a_key_below_a_value_is_unknown_too(key):
    with pytest.raises(UsageError, match="there is no setting"):
        load_config().with_values({key: 1})


@given(st.text(min_size=1).filter(lambda key: key not in KEYS))
def test_any_unknown_key_is_refused_in_one_sentence(key):
    with pytest.raises(UsageError, match=r"did you mean '|is a section|data\.label_map"):
        load_config(values={key: object()})


def test_a_section_is_no_setting():
    refused(r"'training' is a section; set one of its keys", overrides=["training=1"])


@pytest.mark.parametrize(
    ("override", "pattern"),
    [
        ("training.learning_rate=fast", r"training\.learning_rate is 'fast': .*number"),
        ("training.learning_rate=0", r"training\.learning_rate is 0: it must be more than 0"),
        ("training.learning_rate=inf", r"training\.learning_rate is inf: a number is expected"),
        ("training.num_train_epochs=nan", r"training\.num_train_epochs is nan"),
        ("training.seed=4294967296", r"training\.seed is 4294967296: it must be less than 4.29"),
        ("training.save_total_limit=1", r"is 1: it must be 2 or more"),
        ("lora.target_modules=[]", r"lora\.target_modules is \[\]: it must not be empty"),
        ("prompt.labels=[1, 'b']", r"prompt\.labels is 1: a text is expected.*'\"1\"'"),
        ("base.double_quantization=maybe", r"true or false is expected"),
        ("training.seed=1.5", r"training\.seed is 1\.5: a whole number is expected"),
        ("lora.r=0", r"lora\.r is 0"),
        ("lora.bias=some", r"lora\.bias is 'some': .*'none', 'all' or 'lora_only'"),
        ("base.device=tpu", r"base\.device is 'tpu': .*'auto', 'cuda' or 'cpu'"),
        ("data.balance=maybe", r"data\.balance is 'maybe'"),
        ("data.train=5", r"data\.train is 5: a text is expected, in double quotes: '\"5\"'"),
        ("prompt.truncation=middle", r"prompt\.truncation is 'middle'"),
        ("prompt.labels=5", r"""is 5: a list is expected: '\["a", "b"\]'"""),
        ("training.learning_rate=-1", "training.learning_rate is -1: it must be more than 0$"),
        ("data.label_map=5", r"data\.label_map is 5: a table is expected"),
        ("output_dir=", r"output_dir is '': it must not be empty"),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused_by_name(override, pattern):
    message = refused(pattern, overrides=[override])
    assert "\n" not in message and "Input" not in message  # pydantic's own words


def test_every_value_of_the_wrong_kind_is_listed():
    message = refused("is 0: it must", overrides=["lora.r=0", "training.seed=-1", "data.train=5"])
    assert message.count("; ") == 2


# --- files


def test_a_config_file_may_hold_only_what_differs(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text('output_dir = "x"\n[prompt]\nlabels = ["positivo", "negativo"]\n')
    config = load_config("mistral-7b", str(file))
    assert differences(load_config("mistral-7b"), config) == {
        "output_dir": "x",
        "prompt.labels": ["positivo", "negativo"],
    }


def test_a_config_file_that_cannot_be_used_is_refused(tmp_path):
    refused("there is no configuration file .*none.toml", file=tmp_path / "none.toml")
    for content, pattern in (
        (b"training.seed =", "cannot read the configuration .*at end of document"),
        (b"\xff", "cannot read the configuration .*: it is not UTF-8 text"),
        (b"[training]\nlr = 1", "no setting 'training.lr'"),
        (b"training = 5", "'training' is a section"),
        (b"training.seed = 'x'", r"training\.seed is 'x'"),
    ):
        (tmp_path / "bad.toml").write_bytes(content)
        refused(pattern, file=tmp_path / "bad.toml")
    refused("cannot read the configuration", file=tmp_path)


def test_a_runs_own_recipe_that_is_damaged_is_no_fault_of_the_request(tmp_path):
    for content in ("training.seed =", "training.seed = 1"):
        (tmp_path / "sentilora.toml").write_text(content)
        with pytest.raises(DataError, match=r"sentilora\.toml"):
            read_config(tmp_path / "sentilora.toml")


LINE_ENDS = st.text(st.sampled_from(["\r", "\n", '"', "\\", "\t", "\0", "\x7f", "\u2028", "a"]))
STRINGS = st.one_of(st.text(st.characters(exclude_categories=["Cs"])), LINE_ENDS)


@given(STRINGS, STRINGS, st.lists(STRINGS, min_size=2), st.dictionaries(STRINGS, STRINGS))
def test_what_is_saved_reads_back_equal(tmp_path_factory, template, name, labels, label_map):
    path = tmp_path_factory.getbasetemp() / "round-trip.toml"
    config = load_config("tiny").with_values(
        {
            "prompt.template": template,
            "base.name": name or "x",
            "prompt.labels": labels,
            "data.label_map": label_map,
        }
    )
    config.save(path)
    assert read_config(path) == config
    assert load_config("mistral-7b", path) == config
    tomllib.loads(path.read_text(encoding="utf-8"))


def test_a_saved_template_is_readable(tmp_path):
    load_config("tiny").save(tmp_path / "saved.toml")
    assert "\n### Review:\n{text}\n" in (tmp_path / "saved.toml").read_text(encoding="utf-8")


def test_a_copy_with_values_leaves_the_original():
    config = load_config("tiny")
    changed = config.with_values({"training.seed": 7})
    assert (config.training.seed, changed.training.seed) == (42, 7)
    with pytest.raises(ValueError, match="frozen"):
        config.output_dir = "x"


def test_commas_separate_the_words_of_a_list():
    def labels(text):
        return load_config("tiny", overrides=[f"prompt.labels={text}"]).prompt.labels

    assert labels("a,b, so so") == labels('["a", "b", "so so"]') == ("a", "b", "so so")
    assert labels("0,1") == ("0", "1")
    config = load_config("tiny", overrides=["lora.target_modules=q_proj, v_proj"])
    assert config.lora.target_modules == ("q_proj", "v_proj")
    assert (
        load_config("tiny", overrides=["training.learning_rate=search"]).flat()[
            "training.learning_rate"
        ]
        == "search"
    )
