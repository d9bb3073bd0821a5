"""Fine-tune the adapters: epochs of global batches, reduced numbers, a state after each epoch.

What a step computes does not depend on the number of ranks: a global batch is drawn first and then divided, each
term is a sum over images divided by the *global* number of images (of images with a gt mask for the mask terms), and
the gradients of the ranks are summed. An uneven last shard is thereby weighted by its images.
"""

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from feclip.config import LossConfig, OptimConfig
from feclip.data import LabelledImages
from feclip.errors import RunError
from feclip.model import FeClipModel, FeClipOutput, autocast
from feclip.training.batches import epoch_batches, shard
from feclip.training.checkpoint import TrainState
from feclip.training.choosing import best_epoch, is_over
from feclip.training.held_out import held_out_metrics
from feclip.training.loss_sums import batch_sums, mean_loss, mean_terms
from feclip.training.prefix_cache import open_stores
from feclip.training.prefixes import PrefixBatch, PrefixSource
from feclip.training.ranks import gathered, rank, require_equal, summed, world_size
from feclip.training.reach import class_parameters

__all__ = ["Step", "fit"]

logger = logging.getLogger(__name__)

ADAM_FIELDS = ("exp_avg", "exp_avg_sq", "step")


@dataclass(frozen=True, kw_only=True)
class Step:
    """An optimiser step that was taken."""

    epoch: int
    """Of the step, zero-based."""
    number: int
    """Steps of the epoch that are taken, this one among them."""
    num_steps: int
    """Steps of each epoch."""
    num_images: int
    """Images of all ranks."""
    loss: float
    """Their mean loss."""
    seconds: float
    """What it took, with the wait for its images."""


def fit(
    model: FeClipModel,
    *,
    train: LabelledImages,
    held_out: LabelledImages,
    loss: LossConfig,
    optim: OptimConfig,
    seed: int,
    device: torch.device,
    num_threads: int,
    state: TrainState | None,
    on_epoch: Callable[[TrainState], None],
    on_step: Callable[[Step], None] = lambda _: None,
    chooses: bool = False,
) -> TrainState:
    """Train until ``optim.epochs`` epochs are finished, from ``state`` if there is one.

    Every rank calls it with the same arguments; it returns the same on each. Where no image that trains has a gt mask,
    what no class score depends on stays as it is.

    Args:
        model: The model; its adapters and patch head are changed in place, nothing else is.
        train: Images that train.
        held_out: Images for the metrics of each epoch; may be empty.
        loss: Weights of the loss terms.
        optim: Optimiser settings; the batch size counts all ranks.
        seed: Seed of the order of the images.
        device: Where the model computes.
        num_threads: Threads that decode images for this rank.
        state: State to go on from; its epochs are not repeated.
        on_epoch: Called by every rank after each epoch with the state to keep.
        on_step: Called after each step, by every rank.
        chooses: Whether the state carries the tensors of the best epoch on the held-out images, the start among them,
            and ``optim.patience`` may end training.

    Returns:
        The state after the last epoch.

    Raises:
        RunError: On all ranks at once, if the loss is not finite, if the ranks disagree at the start, or if there is
            no room for the cache that ``optim`` asks for.
    """
    model.to(device).train()
    model.gradient_checkpointing = optim.gradient_checkpointing
    trainable = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    reached = set(trainable) if bool(train.has_mask.any()) else class_parameters(model)
    parameters = {name: parameter for name, parameter in trainable.items() if name in reached}
    adam = torch.optim.Adam(parameters.values(), lr=optim.learning_rate, weight_decay=optim.weight_decay)
    if state is not None:
        _restore(state, model=model, parameters=parameters, adam=adam, device=device)
    require_equal(dict(trainable), device=device)
    step_model = replicated(model, device=device)
    state = state or _state(model, parameters=parameters, adam=adam, device=device, metrics=[])
    if state.epoch >= optim.epochs:
        return state
    stores = open_stores(model, [train, held_out], optim=optim, device=device)
    trained, judged = (
        PrefixSource(model, images, precision=optim.precision, device=device, num_threads=num_threads, store=store)
        for images, store in zip([train, held_out], stores, strict=True)
    )
    if chooses and state.before is None:
        state = replace(state, before=held_out_metrics(judged), best=state.trained)
    for epoch in range(state.epoch, optim.epochs):
        if state.before is not None and is_over(state.before, state.metrics, patience=optim.patience):
            logger.info("No higher held-out image AUROC in %d epochs: training ends.", optim.patience)
            break
        batches = epoch_batches(len(train), batch_size=optim.batch_size, seed=seed, epoch=epoch)
        totals = torch.zeros(5, dtype=torch.float64, device=device)
        begun = time.perf_counter()
        for index, (batch, counted) in enumerate(_own_batches(trained, batches), start=1):
            sums = _step(step_model, batch, counted=counted, loss=loss, optim=optim, device=device, adam=adam)
            if not bool(sums.isfinite().all()):
                msg = (
                    f"The loss became {float(sums[:3].sum())} in epoch {epoch + 1}, step {index} of {len(batches)}; "
                    "lower optim.learning_rate, set optim.grad_clip, or set optim.precision to float32."
                )
                raise RunError(msg)
            totals += sums
            begun, seconds = time.perf_counter(), time.perf_counter() - begun
            on_step(
                Step(
                    epoch=epoch,
                    number=index,
                    num_steps=len(batches),
                    num_images=len(batches[index - 1]),
                    loss=mean_terms(sums, loss=loss)["loss"],
                    seconds=seconds,
                )
            )
        record = {"epoch": epoch + 1, **mean_terms(totals, loss=loss), **held_out_metrics(judged)}
        before, best = state.before, state.best
        state = _state(model, parameters=parameters, adam=adam, device=device, metrics=[*state.metrics, record])
        if before is not None:
            is_best = best_epoch(before, state.metrics) == state.epoch
            state = replace(state, before=before, best=state.trained if is_best else best)
        on_epoch(state)
    return state


class _FromPrefix(nn.Module):
    """The part of the model that learns, behind the ``forward`` that DDP hangs its hooks on."""

    def __init__(self, model: FeClipModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, parts: list[tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]]) -> list[FeClipOutput]:
        return [self.model.forward_from_prefix(tokens, valid, nouns=nouns) for tokens, valid, nouns in parts]


def replicated(model: FeClipModel, *, device: torch.device) -> nn.Module:
    """Return ``model.forward_from_prefix`` as a module whose backward pass averages gradients over ranks.

    Only trained parameters are in DDP's buckets. Nothing is broadcast: the ranks start from the same seed or
    checkpoint, which :func:`require_equal` has checked, and the frozen trunk has no state that changes.
    """
    if world_size() == 1:
        return _FromPrefix(model)
    devices = [device] if device.type == "cuda" else None
    return DistributedDataParallel(
        _FromPrefix(model),
        device_ids=devices,
        init_sync=False,
        forward_sync_buffers=False,
        gradient_as_bucket_view=True,
    )


def _own_batches(source: PrefixSource, batches: list[list[int]]) -> Iterator[tuple[list[PrefixBatch], bool]]:
    """Yield this rank's share of each global batch, and whether it counts.

    A rank without an image in the last batch still takes part in the step, with an image that does not count.
    """
    shards = [shard(batch, rank=rank(), world_size=world_size()) for batch in batches]
    filled = [own or batch[:1] for own, batch in zip(shards, batches, strict=True)]
    for batch, own in zip(source.batches(filled), shards, strict=True):
        yield batch, bool(own)


def _step(
    step_model: nn.Module,
    batch: list[PrefixBatch],
    *,
    counted: bool,
    loss: LossConfig,
    optim: OptimConfig,
    device: torch.device,
    adam: torch.optim.Adam,
) -> torch.Tensor:
    """Take one optimiser step and return the global sums (class, focal, dice, images, images with a gt mask).

    The sums are reduced before the backward pass, so that every rank sees a loss that is not finite and none steps.
    """
    with autocast(optim.precision, device=device):
        outputs = step_model([(part.tokens, part.valid_tokens, part.nouns) for part in batch])
    local = float(counted) * batch_sums(outputs, batch, loss=loss)
    sums = summed(local.detach().double())
    if bool(sums.isfinite().all()):  # the one point of a step that waits for the device
        total = mean_loss(local, sums, loss=loss)
        adam.zero_grad(set_to_none=True)
        (total * world_size()).backward()  # type: ignore[no-untyped-call] # DDP averages over ranks; a sum is wanted
        if optim.grad_clip is not None:
            nn.utils.clip_grad_norm_([p for group in adam.param_groups for p in group["params"]], optim.grad_clip)
        adam.step()
    return sums


def _state(
    model: FeClipModel,
    *,
    parameters: dict[str, nn.Parameter],
    adam: torch.optim.Adam,
    device: torch.device,
    metrics: list[dict[str, float]],
) -> TrainState:
    """Collect the state on every rank; only the generators differ between ranks, so only they are gathered."""
    moments = {
        f"{field}/{name}": adam.state[parameter][field].detach().clone()
        for name, parameter in parameters.items()
        if parameter in adam.state
        for field in ADAM_FIELDS
    }
    own = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        own["cuda"] = torch.cuda.get_rng_state(device)
    generators = {
        f"{kind}/{number}": row.cpu()
        for kind, generator in own.items()
        for number, row in enumerate(gathered(generator.to(device).unsqueeze(0)))
    }
    return TrainState(
        epoch=len(metrics),
        trained={name: tensor.detach().clone() for name, tensor in model.trainable_state_dict().items()},
        moments=moments,
        generators=generators,
        metrics=metrics,
        backbone_digest=model.backbone_digest,
    )


def _restore(
    state: TrainState,
    *,
    model: FeClipModel,
    parameters: dict[str, nn.Parameter],
    adam: torch.optim.Adam,
    device: torch.device,
) -> None:
    """Put ``state`` into the model, the optimiser and this rank's generators."""
    if state.backbone_digest != model.backbone_digest:
        msg = (
            f"The run was trained on the backbone {state.backbone_digest[:12]}, but {model.backbone_digest[:12]} was "
            "loaded; give the same model.pretrained weights."
        )
        raise RunError(msg)
    try:
        model.load_trainable_state_dict(state.trained)
    except ValueError as error:
        msg = f"The checkpoint of epoch {state.epoch} is of another model: {error}"
        raise RunError(msg) from error
    for name, parameter in parameters.items():
        fields = {field: state.moments.get(f"{field}/{name}") for field in ADAM_FIELDS}
        if state.epoch and any(value is None for value in fields.values()):
            msg = f"The checkpoint of epoch {state.epoch} lacks Adam's state of {name}."
            raise RunError(msg)
        if state.epoch:
            adam.state[parameter] = {
                field: value.clone() if field == "step" else torch.empty_like(parameter).copy_(value)
                for field, value in fields.items()
                if value is not None
            }
    own = state.generators.get(f"cpu/{rank()}")
    if own is not None:
        torch.set_rng_state(own)
    own = state.generators.get(f"cuda/{rank()}")
    if own is not None and device.type == "cuda":
        torch.cuda.set_rng_state(own, device)
