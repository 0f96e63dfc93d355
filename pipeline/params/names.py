"""What a key that does not exist was probably meant to be: a typing error, another section, or another tool's name."""

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence

from pydantic import BaseModel

from pipeline.params.schema import Params

# Names that other tools use for parameters that are called differently here.
SYNONYMS = {
    "train.lr": "learning_rate lrate lr0 base_lr init_lr initial_lr max_lr peak_lr eta",
    "train.epochs": "num_epochs n_epochs nb_epochs max_epochs total_epochs num_train_epochs steps max_steps iterations",
    "train.batch_size": "batch bs mini_batch n_batch train_batch_size per_device_train_batch_size bsz",
    "train.weight_decay": "wd decay l2 l2_regularization regularization",
    "train.norm_weight_decay": "norm_wd bias_decay bias_weight_decay",
    "train.momentum": "beta beta1 betas adam_betas",
    "train.nesterov": "use_nesterov",
    "train.optimizer": "opt optim optimiser optimizer_name solver",
    "train.clip_norm": "grad_clip clip_grad clip_grad_norm gradient_clip gradient_clip_val max_grad_norm clip",
    "train.schedule": "scheduler sched lr_scheduler lr_schedule lr_scheduler_type lr_policy scheduler_name cos_lr",
    "train.lr_step_size": "step_size lr_decay_epochs decay_epochs lr_step milestones",
    "train.lr_gamma": "gamma lr_decay decay_rate lr_decay_rate lr_factor",
    "train.lr_flat_fraction": "pct_start flat_fraction",
    "train.lr_min": "min_lr eta_min lr_final final_lr end_lr lrf",
    "train.warmup_epochs": "warmup warmup_ratio lr_warmup_epochs num_warmup_steps",
    "train.warmup_decay": "warmup_factor warmup_lr warmup_start_factor lr_warmup_decay",
    "train.loss": "criterion loss_fn loss_function objective",
    "train.label_smoothing": "label_smooth smoothing ls smooth",
    "train.class_weights": "class_weight balanced weighted_loss",
    "train.hflip": "flip fliplr horizontal_flip random_flip random_horizontal_flip",
    "train.random_resized_crop": "rrc random_crop crop_scale crop_pct",
    "train.color_jitter": "jitter colour_jitter brightness contrast saturation",
    "train.trivial_augment": "trivialaugment trivialaugmentwide ta_wide trivial",
    "train.grayscale": "greyscale random_grayscale",
    "train.start_size": "progressive_resizing initial_size start_resolution",
    "train.full_size_epochs": "finetune_fraction full_resolution_epochs",
    "train.random_erase": "erase erasing random_erasing reprob cutout",
    "train.mixup_alpha": "mixup",
    "train.cutmix_alpha": "cutmix",
    "train.mix_probability": "mixup_prob mix_prob mixup_probability",
    "train.unmixed_epochs": "mixup_off_epoch close_mosaic mixup_off",
    "train.ema_decay": "ema model_ema ema_momentum model_ema_decay",
    "train.patience": "early_stopping early_stop early_stopping_patience",
    "train.precision": "amp fp16 bf16 half mixed_precision dtype autocast",
    "train.deterministic": "reproducible use_deterministic_algorithms",
    "train.compile": "torch_compile",
    "model.name": "arch architecture backbone model model_name network net encoder",
    "model.width": "channels base_channels width_mult hidden_size",
    "model.dropout": "drop drop_rate dropout_rate dropout_p drop_prob",
    "model.drop_path_rate": "drop_path stochastic_depth stochastic_depth_prob drop_connect drop_connect_rate",
    "model.kwargs": "model_kwargs model_args network_kwargs",
    "model.activation": "act act_layer activation_function nonlinearity act_fn act_cls",
    "model.pretrained": "weights initial_checkpoint checkpoint_path finetune transfer_learning imagenet",
    "augment.image_size": "imgsz img_size input_size image_sz resolution crop_size size resize_to",
    "augment.resize": "resize_mode crop_mode letterbox",
    "augment.interpolation": "interp resample resampling resize_method antialias",
    "augment.views": "copies num_views n_views n_augmentations augmentations_per_image",
    "augment.test_views": "tta_views num_tta n_tta",
    "augment.preset": "aa auto_augment randaugment augmentation policy augment",
    "augment.transforms": "transform augmentations albumentations",
    "data.source": "dataset dataset_type",
    "data.location": "path data_path data_dir root data_root dataset_path dataset_dir folder url image_folder img_dir",
    "data.classes": "class_names names labels_list categories num_classes n_classes nb_classes nc",
    "data.valid_fraction": "val_split valid_split val_size val_fraction val_ratio valid_size validation_split val_pct",
    "data.test_fraction": "test_split test_size test_ratio test_pct",
    "seed": "random_seed random_state manual_seed rng_seed",
    "evaluate.top_k": "k",
    "evaluate.tta": "test_time_augmentation",
    "evaluate.baseline": "linear_probe knn embedding_baseline",
    "evaluate.bootstrap": "n_bootstrap bootstrap_samples resamples",
    "tsne.layers": "layer feature_layer feature_layers",
    "tsne.perplexity": "perp",
    "tsne.max_images": "max_samples n_samples",
    "tsne.pca_components": "n_components pca",
}
# What depends on the machine comes from the environment.
VARIABLES = {
    "PIPELINE_WORKERS": "workers num_workers n_workers dataloader_num_workers n_jobs",
    "PIPELINE_DEVICE": "device devices gpu gpus cuda accelerator no_cuda use_gpu",
    "PIPELINE_PROCESSES": "processes num_processes nproc nproc_per_node world_size num_gpus ngpu",
    "PIPELINE_RAY": "ray ray_address",
    "PIPELINE_CACHE": "cache cache_dir",
    "PIPELINE_CHECKPOINTS": "checkpoint checkpoints checkpoint_dir ckpt_dir save_dir output_dir",
    "PIPELINE_TENSORBOARD": "tensorboard log_dir logger",
}


def _plain(name: str) -> str:
    """The name without case, hyphens, underscores and spaces."""
    return re.sub(r"[\W_]", "", name.lower())


def parameter_names(schema: type[BaseModel] = Params, prefix: str = "") -> Iterator[str]:
    """The dotted names of all parameters, in the order of the schema."""
    for name, field in schema.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from parameter_names(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name


_PARAMETERS = tuple(parameter_names())
_SECTIONS = tuple(dict.fromkeys(name.partition(".")[0] for name in _PARAMETERS if "." in name))
_SYNONYMS = {
    _plain(name): target for table in (SYNONYMS, VARIABLES) for target, names in table.items() for name in names.split()
}


def unknown_keys(keys: Iterable[str]) -> list[str]:
    """One line for each dotted name that is neither a parameter, a section nor a part of a parameter's value, such as
    ``augment.transforms.0.p``."""
    known = {".".join(parts[:end]) for parts in map(_parts, _PARAMETERS) for end in range(1, len(parts) + 1)}
    unknown = [key for key in keys if not {key, ".".join(_parts(key)[:2])} & known]
    return [f"{key}: unknown key; {suggestion(key) or 'python -m pipeline params lists all'}" for key in unknown]


def _parts(key: str) -> list[str]:
    return key.replace("[", ".").split(".")


def suggestion(key: str, within: Sequence[str] = _PARAMETERS) -> str | None:
    """What to do instead of using the unknown ``key``, such as ``did you mean train.lr?``; None without an idea.

    In this order: the same name in another section, another tool's name for a parameter or for an environment variable,
    a similar name in the same section, and a similar name anywhere.

    Args:
        key: a dotted name, or only the last part of one.
        within: the parameters that may be suggested.
    """
    section, _, name = key.rpartition(".")
    plain = _plain(name)
    # The picture of the learning rates has steps of its own, which are not those of a training run.
    known = [full for full in within if section in ("", "learning_rates") or not full.startswith("learning_rates.")]
    same = [full for full in known if _plain(_last(full)) == plain]
    target = _SYNONYMS.get(plain) or _similar(plain, section, known)
    if target in VARIABLES and not same:
        return f"set the environment variable {target} instead"
    found = same or [full for full in (*known, *_SECTIONS) if full == target]
    return f"did you mean {' or '.join(found)}?" if found else None


def _similar(plain: str, section: str, known: Sequence[str]) -> str | None:
    """The parameter, section or variable with the most similar name; those of ``section`` first."""
    names = {_plain(_last(full)): full for full in reversed(known)}
    inside = {_plain(_last(full)): full for full in known if full.rpartition(".")[0] == section}
    if not section:
        inside |= {_plain(name): name for name in _SECTIONS}
    for candidates, cutoff in ((inside, 0.6), (_SYNONYMS | names, 0.75)):
        close = difflib.get_close_matches(plain, candidates, n=1, cutoff=cutoff)
        if close:
            return candidates[close[0]]
    return None


def _last(name: str) -> str:
    return name.rpartition(".")[2]
