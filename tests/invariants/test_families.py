"""Every family of text encoders trains, takes texts up to its limit, is saved and loaded, and answers for texts alone.

Six of them each time, all where MTBERT_ALL_CASES is in the environment.
"""

from __future__ import annotations

import os
import warnings

import numpy as np
import pytest
import torch
from families import family_config
from transformers import AutoModel, set_seed
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES, MODEL_MAPPING_NAMES

from mtbert.modeling import cpu_layers
from mtbert.modeling.configuration_mtbert import MtBertConfig
from mtbert.modeling.encoder_support import check_encoder, depends_on_padding, has_pooler
from mtbert.modeling.modeling_mtbert import MtBertForMultiTask
from mtbert.modeling.task_spec import TaskSpec
from mtbert.modeling.tokenization import length_limit

EVERY_TIME = ("fnet", "layoutlm", "longformer", "mra", "squeezebert", "xmod")
FAMILIES = (
    *("albert", "bert", "big_bird", "camembert", "convbert", "data2vec-text", "deberta", "deberta-v2", "distilbert"),
    *(
        "electra",
        "ernie",
        "esm",
        "esmc",
        "eurobert",
        "flaubert",
        "fnet",
        "funnel",
        "gte",
        "ibert",
        "jina_embeddings_v3",
    ),
    *("layoutlm", "longformer", "luke", "megatron-bert", "mobilebert", "modernbert", "mpnet", "mra", "neomme"),
    *("nomic_bert", "nystromformer", "rembert", "roberta", "roberta-prelayernorm", "roc_bert", "roformer", "splinter"),
    *("squeezebert", "tapas", "ultrabert", "xlm", "xlm-roberta", "xlm-roberta-xl", "xmod", "yoso"),
)
ALL = bool(os.environ.get("MTBERT_ALL_CASES"))
# Positions of these are no rows of a table, or are cut to its end, so that a text may be longer than its config says.
WITHOUT_TABLE = {*("esmc", "eurobert", "funnel", "gte", "jina_embeddings_v3", "modernbert", "neomme", "nomic_bert")}
WITHOUT_TABLE |= {"tapas", "ultrabert"}
EXPORTED = FAMILIES if ALL else ("fnet", "longformer")  # an export takes long, a refusal does not
TASKS = [TaskSpec("first", labels=3), TaskSpec("average", range=(0, 5), pooling="mean")]
WITHOUT_HALF = {"deberta", "fnet", "mra"}  # transformers' own layers cannot compute in it
NOT_EXPORTED = {"longformer"}
LENGTHS = (12, 3, 5, 20, 7, 9, 1, 31, 2, 17)  # more than attention has buckets


@pytest.fixture
def faster_everywhere(monkeypatch):
    """Our linear layers as processors with AVX-512 have them, for products of any size."""
    monkeypatch.setattr(cpu_layers, "ONEDNN", hasattr(torch.ops.mkldnn, "_linear_pointwise"))
    monkeypatch.setattr(cpu_layers, "MIN_ROWS", 1)


@pytest.fixture(autouse=True)
def _quietly():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="(?s).*(computed with padding|no kernel for its attention)")
        yield


@torch.no_grad()
def make_model(family: str, tasks=TASKS, packed: bool = True) -> MtBertForMultiTask:
    """One layer or two in eval mode, with random weights far larger than an initialisation's."""
    set_seed(0)
    layers = {} if family in ("distilbert", "funnel") else {"num_hidden_layers": 1}
    config = family_config(family, **layers)
    model = MtBertForMultiTask(MtBertConfig(encoder=config, tasks=list(tasks), packed=packed)).eval()
    for parameter in model.parameters():
        noise = torch.randn_like(parameter) * 0.2
        parameter.copy_(noise if parameter.dim() > 1 else parameter + noise)
    return model


def make_batch(lengths=LENGTHS) -> dict[str, torch.Tensor]:
    """Padded inputs; the padding holds real tokens, which must not matter."""
    generator = torch.Generator().manual_seed(3)
    shape = (len(lengths), max(lengths))
    mask = (torch.arange(shape[1]) < torch.tensor(lengths)[:, None]).long()
    return {"input_ids": torch.randint(5, 100, shape, generator=generator), "attention_mask": mask}


@torch.no_grad()
def answers(model, batch) -> torch.Tensor:
    """Logits of both tasks, side by side."""
    return torch.cat(list(model(**batch, tasks="all").task_logits.values()), dim=1)


def assert_near(one: torch.Tensor, other: torch.Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=1e-5 * max(1.0, float(other.abs().max())))


@pytest.mark.parametrize("family", FAMILIES if ALL else EVERY_TIME)
def test_a_family_trains_is_saved_and_answers_alike(family, faster_everywhere, tokenizer, tmp_path):
    model, batch = make_model(family), make_batch()
    labels = {"first": torch.arange(len(LENGTHS)) % 3, "average": torch.linspace(0, 5, len(LENGTHS))}
    before = {name: value.clone() for name, value in model.encoder.named_parameters()}

    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    loss = model.train()(**batch, tasks="all", labels=labels).loss
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    assert loss.isfinite() and norm.isfinite() and norm > 0
    optimizer.step()
    changed = {name for name, value in model.encoder.named_parameters() if not torch.equal(value, before[name])}
    assert any("layer" in name for name in changed) and any("embed" in name for name in changed)

    whole = answers(model.eval(), batch)
    assert whole.isfinite().all()
    with torch.no_grad():
        assert model(**batch, tasks="all", labels=labels).loss.isfinite()
    alone = [answers(model, {"input_ids": batch["input_ids"][i : i + 1, :n]}) for i, n in enumerate(LENGTHS)]
    assert_near(whole, torch.cat(alone))
    model.config.packed, packs = False, model._packs
    padded = MtBertForMultiTask(model.config).eval()
    padded.load_state_dict(model.state_dict())
    assert_near(answers(padded, batch), whole)
    model.config.packed = True

    limit = length_limit(TASKS[0], tokenizer, model.config.encoder)
    assert limit == 64 or model.config.encoder.max_position_embeddings < 66
    for one in (model, padded) if packs else (model,):
        assert answers(one, make_batch((limit,))).isfinite().all()
        if family not in WITHOUT_TABLE:
            with pytest.raises((IndexError, RuntimeError)):
                answers(one, make_batch((limit + 1,)))

    model.save_pretrained(tmp_path)
    loaded = MtBertForMultiTask.from_pretrained(tmp_path).eval()
    assert loaded.state_dict().keys() == model.state_dict().keys()
    assert_near(answers(loaded, batch), whole)


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES if ALL else ("albert", "layoutlm", "big_bird"))
def test_a_pooler_is_the_encoders_own(family):
    config = family_config(family)
    if not has_pooler(AutoModel.from_config(config)):
        with pytest.raises(ValueError, match="pooling is 'pooler', but .* encoders have none"):
            make_model(family, [TaskSpec("t", labels=2, pooling="pooler")])
        return
    model = make_model(family, [TaskSpec("t", labels=2, pooling="pooler")])
    batch = make_batch((9, 9, 9))
    expected = model.encoder(**batch).pooler_output
    output = model(**batch)
    assert output.logits.shape == (3, 2)
    assert_near(output.pooled["t"], expected)


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES if ALL else ("deberta", "ibert", "modernbert", "squeezebert"))
def test_half_precision_is_that_of_transformers(family, tmp_path):
    """Of every tensor of the encoder: from_encoder, saved and loaded, cast, and taken out again."""
    AutoModel.from_config(family_config(family)).save_pretrained(tmp_path / "encoder")
    expected = AutoModel.from_pretrained(tmp_path / "encoder", dtype=torch.bfloat16)
    tensors = dict([*expected.named_parameters(), *expected.named_buffers()])
    model = MtBertForMultiTask.from_encoder(tmp_path / "encoder", TASKS, dtype=torch.bfloat16)
    model.save_pretrained(tmp_path / "model")
    encoders = {
        "from_encoder": model.encoder,
        "loaded": MtBertForMultiTask.from_pretrained(tmp_path / "model").encoder,
        "loaded as": MtBertForMultiTask.from_pretrained(tmp_path / "model", dtype=torch.bfloat16).encoder,
        "extracted": model.extract_task("average").encoder,
        "exported": model.export_encoder(),
    }
    for way, encoder in encoders.items():
        for name, tensor in [*encoder.named_parameters(), *encoder.named_buffers()]:
            # DeBERTa's biases stay in fp32 in transformers, whose own layers then refuse to multiply
            assert tensor.dtype == tensors[name].dtype or family == "deberta", (way, name)
            assert torch.equal(tensor, tensors[name].to(tensor.dtype)), (way, name)
    whole = MtBertForMultiTask.from_encoder(tmp_path / "encoder", TASKS)
    computed = [name for name, _ in whole.encoder.named_buffers() if name not in whole.encoder.state_dict()]
    for cast in (lambda: whole.to(torch.bfloat16), whole.bfloat16, whole.half, lambda: whole.to("cpu", torch.float16)):
        dtypes = {parameter.dtype for parameter in whole.float().parameters()}
        assert dtypes == {torch.float32} and cast() is whole
        assert {parameter.itemsize for parameter in whole.parameters()} == {2}
        assert all(torch.equal(whole.encoder.get_buffer(name), tensors[name]) for name in computed), cast
    if family in WITHOUT_HALF:
        with pytest.raises(RuntimeError, match="dtype"):
            expected.eval()(**make_batch((9, 9)))
        return
    assert answers(model.eval(), make_batch()).isfinite().all()
    hidden = model.encoder(**make_batch((9, 9))).last_hidden_state
    assert torch.equal(hidden, expected.eval()(**make_batch((9, 9))).last_hidden_state)


@pytest.mark.parametrize("family", EXPORTED)
def test_an_exported_graph_answers_alike(family, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = make_model(family)
    if depends_on_padding(model.config.encoder) or family in NOT_EXPORTED:
        with pytest.raises(ValueError, match=f"'{family}' can not be exported: "):
            model.export_onnx(tmp_path / "model.onnx")
        return
    names = model.export_onnx(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    for lengths in (LENGTHS, (64,), (1, 1)):
        batch = make_batch(lengths)
        inputs = {
            value.name: batch.get(value.name, torch.zeros_like(batch["input_ids"])) for value in session.get_inputs()
        }
        logits = session.run(names, {name: value.numpy() for name, value in inputs.items()})
        assert_near(torch.from_numpy(np.concatenate(logits, axis=1)), answers(model, batch))


REFUSED = {
    "bart": (family_config("bart"), "'bart' has a decoder; give an encoder-only model"),
    "gpt2": (family_config("gpt2"), "'gpt2' has a decoder; give an encoder-only model"),
    "t5": (family_config("t5"), "'t5' has a decoder; give an encoder-only model"),
    "a BERT that decodes": (family_config("bert", is_decoder=True), "'bert' has a decoder; give an encoder-only model"),
    "an XLM that decodes": (family_config("xlm", causal=True), "'xlm' has a decoder; give an encoder-only model"),
    "lilt": (family_config("lilt"), "'lilt' can not be the encoder: it reads where words stand on a page"),
    "reformer": (family_config("reformer"), "'reformer' can not be the encoder: it needs texts of a fixed multiple"),
    "canine": (family_config("canine"), "'canine' can not be the encoder: it reads characters"),
    "vit": (family_config("vit"), "'vit' is no text encoder of transformers"),
    "xmod without a language": (
        family_config("xmod", default_language=None),
        "'xmod': default_language is None, but must name the language of the texts, one of en_XX, de_DE",
    ),
    "xmod of another language": (
        family_config("xmod", default_language="fr_XX"),
        "'xmod': default_language is 'fr_XX'",
    ),
    "nystromformer in segments": (
        family_config("nystromformer", num_landmarks=4, segment_means_seq_len=64),
        "'nystromformer': segment_means_seq_len is 64, so that every text must have a multiple of 4 tokens; set it to",
    ),
    "esm without padding": (family_config("esm", pad_token_id=None), "'esm': pad_token_id is null, but positions are"),
}


@pytest.mark.parametrize(("config", "message"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_work_is_refused_at_building(config, message):
    with pytest.raises(ValueError, match=f"^{message}"), torch.device("meta"):
        MtBertForMultiTask(MtBertConfig(encoder=config, tasks=TASKS))


def test_no_family_of_transformers_is_forgotten():
    """What transformers pretrains with masks is tried above, or refused by name."""
    for family in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        if family not in FAMILIES:
            with pytest.raises(ValueError, match=f"^'{family}' "):
                check_encoder(CONFIG_MAPPING[family]())
    assert not {family for family in FAMILIES if family not in MODEL_MAPPING_NAMES}


def test_block_sparse_attention_is_computed_whole(faster_everywhere):
    """transformers computes it whole from the first short batch on: answers would depend on what came before."""
    with pytest.warns(UserWarning, match="big_bird: attention_type is 'original_full' from now on"):
        config = family_config("big_bird", attention_type="block_sparse")
        model = MtBertForMultiTask(MtBertConfig(encoder=config, tasks=TASKS)).eval()
    longest, short = make_batch((64,)), make_batch((5,))
    before = answers(model, longest)
    answers(model, short)
    assert torch.equal(answers(model, longest), before)
    assert model.config.encoder.attention_type == "original_full"


def test_mra_without_its_kernel_says_so():
    with pytest.warns(UserWarning, match="mra: transformers has no kernel for its attention on this machine"):
        make_model("mra")
