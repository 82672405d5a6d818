"""A run that is pushed while it trains and at its end; and an adapter of peft that is pushed alone."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

# Everything that a client needs to train: `trainer(name, **settings)`.
TRAINING = """
import warnings
from dataclasses import replace
from datasets import Dataset
from transformers import AutoTokenizer, set_seed
from mtbert import MtBertForMultiTask, MtBertTrainer, MtBertTrainingArguments, Schedule, TaskSpec
from mtbert.training.peft import MtBertPeftModel, wrap

tasks = [
    TaskSpec("stars", labels=["one", "two", "three"]),
    TaskSpec("close", range=(0, 5), texts=2, pair="siamese"),
    TaskSpec("same", "binary_classification", labels=["no", "yes"], texts=2),
]
texts = ["the cat sleeps .", "a dog", "fish", "the tree is old .", "a bird flies", "an old house"]
rows = {
    "stars": Dataset.from_dict({"text": texts, "label": [0, 1, 2, 0, 1, 2]}),
    "close": Dataset.from_dict({"text": texts, "text_pair": texts[::-1], "label": [0.0, 1.0, 2.5, 4.0, 5.0, 3.0]}),
    "same": Dataset.from_dict({"text": texts, "text_pair": texts[::-1], "label": [0, 1, 0, 1, 0, 1]}),
}
tokenizer = AutoTokenizer.from_pretrained(ENCODER)

def trainer(name, peft=None, recipe=None, **settings):
    set_seed(1)
    model = MtBertForMultiTask.from_encoder(ENCODER, tasks)
    if peft:
        model = wrap(model, peft)
    values = dict(num_train_epochs=1, learning_rate=1e-2, per_device_train_batch_size=4, use_cpu=True, seed=3,
                  disable_tqdm=True, logging_steps=2, save_strategy="steps", save_steps=2, hub_model_id=name)
    args = MtBertTrainingArguments(RUNS + name, **{**values, **settings})
    return MtBertTrainer(model, args, rows, rows, processing_class=tokenizer,
                         schedule=Schedule("annealed", steps_per_epoch=4), recipe=recipe)
"""  # fmt: skip


@pytest.fixture(scope="module")
def trainer_client(owner, encoder_dir, tmp_path_factory):
    """The client with mtbert, with what it needs to train."""
    owner.run(f"ENCODER, RUNS = {encoder_dir!r}, {str(tmp_path_factory.mktemp('runs'))!r} + '/'")
    owner.run(TRAINING)
    return owner


def paths_in(files: dict[str, bytes]) -> list[str]:
    """Names of files that hold a path of this machine."""
    return [name for name, content in files.items() if re.search(rb"/(tmp|root|home)/|pytest-of", content)]


class TestEndOfTraining:
    @pytest.fixture(scope="class")
    def done(self, trainer_client):
        """A run that was trained, evaluated and pushed."""
        trainer_client.run("run = trainer('ada/end', save_strategy='epoch'); run.train(); scores = run.evaluate()")
        emissions = r"emissions,energy_consumed\n0.002,0.01\n"  # as codecarbon leaves them
        trainer_client.run(f"open(RUNS + 'ada/end/emissions.csv', 'w').write('{emissions}')")
        trainer_client.run("run.push_to_hub(license='mit', language='en', private=True)")
        return trainer_client

    def test_it_uploads_the_model_and_nothing_else(self, hub, done, all_files):
        files = hub.files("ada/end")
        assert set(files) == all_files
        assert paths_in(files) == []
        assert hub.repos["ada/end"].private

    def test_the_card_has_the_scores_and_the_settings(self, hub, done, server):
        card = hub.files("ada/end")["README.md"].decode()
        scores = done.run("result = {key: value for key, value in scores.items() if isinstance(value, float)}")
        assert f"| stars | accuracy | {scores['eval_stars_accuracy']:.4f} |" in card
        assert f"| all | overall | {scores['eval_overall']:.4f} |" in card
        assert "learning_rate: 0.01" in card and "name: annealed" in card and "license: mit" in card
        assert "Training took 0.01 kWh, about 2 g of CO₂" in card
        assert server.card_problems(card) == []
        assert server.card_problems(card.replace("emissions: 2.0", "emissions: two")) != []

    def test_the_card_passes_the_clients_validation(self, done, client_error):
        done.run("from huggingface_hub import ModelCard; card = ModelCard.load('ada/end'); card.validate()")
        found = done.run("result = [(each.task_name, each.metric_name) for each in card.data.eval_results]")
        assert ["stars", "accuracy"] in found and ["close", "pearson"] in found
        with pytest.raises(client_error, match='"model-index.*dataset.name" is required'):
            done.run("ModelCard(str(card).replace('name: stars', 'name: null')).validate()")

    def test_it_loads(self, done, logits_of):
        expected = done.run("model = run.model\n" + logits_of(arguments="tokenizer=tokenizer, "))
        found = done.run("model = MtBertForMultiTask.from_pretrained('ada/end')\n" + logits_of())
        for name, logits in expected.items():
            np.testing.assert_allclose(found[name], logits, atol=1e-5)


class TestWhileTraining:
    def test_every_save(self, hub, trainer_client, all_files):
        settings = (
            "push_to_hub=True, hub_strategy='every_save', hub_always_push=True, eval_strategy='steps', eval_steps=2, "
            "recipe={'card': {'license': 'mit', 'language': ['en', 'de']}}"
        )
        trainer_client.run(f"run = trainer('ada/saves', {settings}); run.train()")
        messages = [each for each in hub.repos["ada/saves"].messages if "step" in each]
        assert messages == ["Training in progress, step 2", "Training in progress, step 4"]
        assert set(hub.files("ada/saves")) == all_files and paths_in(hub.files("ada/saves")) == []
        card = hub.files("ada/saves")["README.md"].decode()
        assert "| stars | accuracy |" in card and "license: mit" in card and "language:\n- en\n- de" in card
        same = """
        from safetensors.torch import load_file
        from huggingface_hub import hf_hub_download
        import torch
        one, other = load_file(hf_hub_download('ada/saves', 'model.safetensors')), run.model.state_dict()
        result = one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
        """
        assert trainer_client.run(same)
        assert trainer_client.run("import os; result = sorted(os.listdir(RUNS + 'ada/saves'))") == [
            "checkpoint-2", "checkpoint-4", "runs",
        ]  # fmt: skip

    def test_a_checkpoint_from_the_hub_is_resumed_bit_for_bit(self, hub, trainer_client, all_files):
        settings = (
            "push_to_hub=True, hub_strategy='checkpoint', hub_always_push=True, "
            "eval_strategy='steps', eval_steps=3, metric_for_best_model='eval_loss'"
        )
        trainer_client.run(f"run = trainer('ada/resumed', {settings}, save_steps=3); run.train()")
        whole = trainer_client.run("result = {n: p.flatten()[:5].tolist() for n, p in run.model.named_parameters()}")
        repo = hub.repos["ada/resumed"]
        kept = {name.partition("/")[2] for name in hub.files("ada/resumed") if name.startswith("last-checkpoint/")}
        assert {"optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "model.safetensors"} <= kept
        assert "training_args.bin" not in kept and "training_args.json" not in kept
        files = hub.files("ada/resumed")
        assert {name for name in files if "/" not in name} == all_files
        assert paths_in(files) == []
        best = json.loads(files["last-checkpoint/trainer_state.json"])["best_model_checkpoint"]
        assert best in ("checkpoint-3", "checkpoint-4")
        state, at_three = "last-checkpoint/trainer_state.json", None
        for commit, content in repo.commits.items():
            if state in content and json.loads(content[state])["global_step"] == 3:
                at_three = commit
        trainer_client.run(f"""
        from huggingface_hub import snapshot_download
        folder = snapshot_download('ada/resumed', revision={at_three!r}, allow_patterns='last-checkpoint/*')
        run = trainer('ada/again', save_strategy='no')
        run.train(resume_from_checkpoint=folder + '/last-checkpoint')
        """)
        resumed = trainer_client.run("result = {n: p.flatten()[:5].tolist() for n, p in run.model.named_parameters()}")
        assert trainer_client.run("result = run.state.global_step") == 4
        assert resumed == whole

    def test_only_at_the_end(self, hub, trainer_client, all_files):
        settings = "push_to_hub=True, hub_strategy='end', hub_private_repo=True, hub_token='hf_owner'"
        trainer_client.run(f"run = trainer('ada/last', {settings}); run.train()")
        assert hub.repos["ada/last"].private
        assert hub.repos["ada/last"].messages == ["initial commit"]
        trainer_client.run("run.save_model()")
        assert hub.repos["ada/last"].messages == ["initial commit", "Model save"]
        assert set(hub.files("ada/last")) == all_files

    def test_a_failed_push_is_reported_and_training_goes_on(self, hub, trainer_client):
        trainer_client.run("run = trainer('ada/broken', push_to_hub=True, hub_always_push=True, save_steps=4)")
        hub.gone_at = "/ada/broken/commit/"
        try:
            found = trainer_client.run("""
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                run.train()
            result = [str(each.message) for each in caught if "hub" in str(each.message)]
            """)
        finally:
            hub.gone_at, hub.gone = None, False
        assert len(found) == 1
        assert found[0].startswith("a checkpoint is not on the hub: push to 'ada/broken': the hub gave no answer")
        assert trainer_client.run("result = run.state.global_step") == 4

    def test_the_end_of_a_run_that_cannot_be_pushed(self, hub, trainer_client, client_error):
        trainer_client.run("run = trainer('ada/unreached', push_to_hub=True)")
        hub.gone_at = "/ada/unreached/"
        try:
            with pytest.raises(client_error, match="push to 'ada/unreached': the hub gave no answer") as caught:
                trainer_client.run("at_once(run.push_to_hub)")
        finally:
            hub.gone_at, hub.gone = None, False
        assert caught.value.kinds[0] == "PushError"

    def test_the_token_of_the_settings_is_the_one_that_is_used(self, trainer_client, client_error):
        with pytest.raises(client_error, match="push to 'ada/end': the token was refused") as caught:
            trainer_client.run("trainer('ada/end', push_to_hub=True, hub_token='hf_wrong')")
        assert caught.value.kinds[0] == "PushError"

    def test_a_repository_that_may_not_be_made(self, trainer_client, client_error):
        with pytest.raises(client_error, match="push to 'bob/taken': the token may not write there") as caught:
            trainer_client.run("trainer('bob/taken', push_to_hub=True)")
        assert caught.value.kinds[0] == "PushError"


class TestAdapter:
    @pytest.fixture(scope="class")
    def adapter(self, trainer_client):
        """A model that was trained inside peft and pushed by itself."""
        lora = "{'r': 4, 'target_modules': ['query', 'value']}"
        trainer_client.run(f"run = trainer('ada/lora', peft={lora}, push_to_hub=True); run.train()")
        trainer_client.run("run.model.push_to_hub('ada/lora-alone', tokenizer=tokenizer)")
        return trainer_client

    ALONE = {"README.md", "config.json", "adapter_config.json", "adapter_model.safetensors", ".gitattributes",
             "tokenizer.json", "tokenizer_config.json"}  # fmt: skip

    def test_it_uploads_the_adapter_and_both_configs(self, hub, adapter, server):
        for name in ("ada/lora-alone", "ada/lora"):
            files = hub.files(name)
            assert set(files) == self.ALONE and paths_in(files) == []
            assert server.card_problems(files["README.md"].decode()) == []
            assert b"PeftModel.from_pretrained" in files["README.md"]
            weights = files["adapter_model.safetensors"]
            assert b"heads.stars" in weights and b"word_embeddings" not in weights

    def test_it_loads_onto_a_fresh_base_with_every_head(self, adapter, logits_of):
        with_tokenizer = logits_of(arguments="tokenizer=tokenizer, ")
        expected = adapter.run("model = run.model.eval()\n" + with_tokenizer)
        adapter.run("""
        from peft import PeftModel
        from mtbert import MtBertConfig
        set_seed(99)
        config = MtBertConfig.from_pretrained('ada/lora-alone')
        base = MtBertForMultiTask.from_encoder(ENCODER, config.task_specs, config.adapter_spec)
        model = PeftModel.from_pretrained(base, 'ada/lora-alone').eval()
        """)
        found = adapter.run(with_tokenizer)
        assert found.keys() == expected.keys() == {"stars", "close", "same"}
        for name, logits in expected.items():
            np.testing.assert_allclose(found[name], logits, atol=1e-6)
