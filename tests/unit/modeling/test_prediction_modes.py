"""`predict` from several threads, and of a model that is in training mode."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import MethodType

import numpy as np
import pytest
from peft import LoraConfig, get_peft_model
from predicted_tasks import PAL
from texts_alone import PAIRS, TEXTS
from transformers import AutoTokenizer, pipeline

from mtbert.modeling.task_spec import TaskSpec


class TestThreads:
    @pytest.mark.filterwarnings("ignore:of .* rows, some were cut")
    @pytest.mark.parametrize(("adapter", "training"), [(None, True), (PAL, True), (PAL, False)])
    def test_eight_threads_answer_as_one(self, adapter, training, make_model, encoder_dir):
        """Tasks that cut their rows at different lengths, beside a thread that cuts and pads by the same tokenizer."""
        tokenizer = AutoTokenizer.from_pretrained(encoder_dir)
        specs = [TaskSpec(f"t{limit}", labels=2, max_length=limit) for limit in (4, 6, 9, None)]
        specs += [TaskSpec(f"p{limit}", labels=2, texts=2, pair=pair, max_length=limit)
                  for limit, pair in ((7, "cross"), (12, "siamese"), (5, "both"), (None, "cross"))]  # fmt: skip
        model = make_model(specs, adapter=adapter).train(training)
        model.encoder.encoder.layer[0].eval()  # a part that someone keeps as it is
        modes = [module.training for module in model.modules()]
        texts = [f"{text} {other}" for text, other in PAIRS]
        rows = {spec.name: texts if spec.texts == 1 else list(zip(texts, texts[1:] + texts[:1])) for spec in specs}
        tokenizer.backend_tokenizer.enable_padding(length=20)  # left by whoever used it before

        def answers(name):
            return model.predict(rows[name], task=name, tokenizer=tokenizer).logits

        expected = {spec.name: answers(spec.name) for spec in specs}
        assert tokenizer.backend_tokenizer.padding["length"] == 20
        pipe = pipeline("multi-task-text-classification", model=model, tokenizer=tokenizer)
        scores = pipe(texts, task="t6", batch_size=3)
        embedded = model.embed(texts, task="t9", tokenizer=tokenizer)
        wrong = []

        def work(number):
            for turn in range(4):
                name = specs[(number + turn) % 8].name
                if not np.allclose(answers(name), expected[name], atol=1e-6):
                    wrong.append(name)
                if turn == number % 4 and not np.allclose(model.embed(texts, task="t9", tokenizer=tokenizer), embedded):
                    wrong.append("embed")
                if turn == number % 4 and pipe(texts, task="t6", batch_size=3) != scores:
                    wrong.append("pipeline")

        with ThreadPoolExecutor(9) as pool:
            other = pool.submit(lambda: [tokenizer(texts, truncation=True, max_length=3 + i % 9) for i in range(80)])
            list(pool.map(work, range(8)))
            cut = [max(map(len, batch["input_ids"])) for batch in other.result()]
        assert wrong == []
        assert cut == [3 + i % 9 for i in range(80)]
        assert [module.training for module in model.modules()] == modes


class TestMode:
    def test_it_is_left_alone_while_predicting(self, make_model, tokenizer):
        model, seen = make_model().train(), []
        model.encoder.register_forward_hook(lambda module, *_: seen.append((model.training, module.training)))
        model.predict(TEXTS, tasks="all", tokenizer=tokenizer)
        assert seen == [(True, False)] and model.training

    def test_answers_without_dropout_whatever_wraps_the_forward(self, make_model, tokenizer):
        """accelerate binds wrapped forwards to the modules; peft puts modules around others."""
        expected = make_model().eval().predict(TEXTS, task="stars", tokenizer=tokenizer).logits
        model = make_model().train()
        forward = type(model).forward
        model.forward = MethodType(lambda self, *args, **kwargs: forward(self, *args, **kwargs), model)
        layer = model.encoder.encoder.layer[0]
        layer.old_forward, layer.forward = (
            layer.forward,
            partial(lambda self, *args, **kw: self.old_forward(*args, **kw), layer),
        )
        tuned = get_peft_model(model, LoraConfig(target_modules=["query"])).train()
        for each in (model, tuned):
            np.testing.assert_allclose(
                each.predict(TEXTS, task="stars", tokenizer=tokenizer).logits, expected, atol=1e-6
            )
        assert all(module.training for module in tuned.modules())

    def test_a_forward_that_can_not_be_bound_anew_is_refused(self, make_model, tokenizer):
        model = make_model().train()
        forward = model.encoder.forward
        model.encoder.forward = lambda *args, **kwargs: forward(*args, **kwargs)
        with pytest.raises(
            ValueError, match=r"training mode, and the forward of its BertModel was replaced; call eval\(\)"
        ):
            model.predict(TEXTS, task="stars", tokenizer=tokenizer)
        assert model.eval().predict(TEXTS, task="stars", tokenizer=tokenizer).logits.shape == (6, 3)


def test_a_training_model_is_afterwards_one(make_model, tokenizer):
    model = make_model().train()
    one, other = (model.predict(TEXTS, task="stars", tokenizer=tokenizer).logits for _ in range(2))
    np.testing.assert_array_equal(one, other)
    assert model.training and model.heads["stars"].training
