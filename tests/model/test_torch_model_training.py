"""What trains and what does not, gradients by tap, precision, and the state that is saved."""

from collections.abc import Callable

import open_clip
import pytest
import torch

from feclip.model import FeClipModel, FFEAdapter, FrequencyTap, LFSAdapter, fe_clip_loss_terms
from feclip.model.backbone import Backbone

Build = Callable[..., FeClipModel]


def test_a_kept_prefix_can_be_trained_on(build_model: Build, images: torch.Tensor) -> None:
    model = build_model()
    with torch.no_grad():
        tokens = model.prefix(images)
    model.forward_from_prefix(tokens).token_logits.sum().backward()
    assert model.patch_head.weight.grad is not None


def compute_loss(model: FeClipModel, images: torch.Tensor, valid_tokens: torch.Tensor) -> torch.Tensor:
    masks = torch.zeros(3, 64, 64)
    masks[0, 20:40, 20:40] = 1
    terms = fe_clip_loss_terms(model(images, valid_tokens), torch.tensor([1, 0, 0]), masks)
    return torch.stack([term.mean() for term in terms]).sum()


def test_only_adapters_and_patch_head_get_gradients(
    build_model: Build, images: torch.Tensor, valid_tokens: torch.Tensor
) -> None:
    model = build_model(num_taps=4)
    compute_loss(model, images, valid_tokens).backward()
    with_gradient = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert with_gradient == set(model.trainable_state_dict())
    assert all(parameter.grad.any() for parameter in model.parameters() if parameter.grad is not None)


@pytest.mark.parametrize("padding", ["masked", "attention"])
def test_recomputed_blocks_give_the_same_gradients_and_keep_less(
    build_model: Build, images: torch.Tensor, valid_tokens: torch.Tensor, padding: str
) -> None:
    model = build_model(num_taps=2, padding=padding).train()
    gradients, kept = [], []
    for recompute in (False, True):
        model.gradient_checkpointing = recompute
        model.zero_grad()
        saved: list[int] = []

        def note(tensor: torch.Tensor, saved: list[int] = saved) -> torch.Tensor:
            saved.append(tensor.nbytes)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            loss = compute_loss(model, images, valid_tokens)
        loss.backward()
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
        kept.append(sum(saved))
    assert gradients[0].keys() == gradients[1].keys() == model.trainable_state_dict().keys()
    for name, gradient in gradients[0].items():
        assert torch.allclose(gradients[1][name], gradient, rtol=1e-5, atol=1e-8), name
    assert kept[1] < kept[0]


def gradient_by_tap(model: FeClipModel, logits: torch.Tensor) -> list[bool]:
    parameters = [list(tap.parameters()) for tap in model.taps]
    return [
        any(
            gradient is not None and bool(gradient.any())
            for gradient in torch.autograd.grad(logits.sum(), group, allow_unused=True, retain_graph=True)
        )
        for group in parameters
    ]


def test_class_scores_reach_only_adapters_of_earlier_taps(build_model: Build, images: torch.Tensor) -> None:
    model = build_model(num_taps=3)
    output = model(images)
    assert (
        not output.class_logits[:, 0].requires_grad or gradient_by_tap(model, output.class_logits[:, 0]) == [False] * 3
    )
    assert gradient_by_tap(model, output.class_logits[:, 1]) == [True, False, False]
    assert gradient_by_tap(model, output.class_logits[:, 2]) == [True, True, False]
    assert gradient_by_tap(model, output.token_logits[:, 2]) == [True, True, True]


def test_one_step_lowers_the_loss_and_leaves_the_trunk_as_it_is(
    build_model: Build, images: torch.Tensor, valid_tokens: torch.Tensor
) -> None:
    model = build_model().train()
    before = {name: value.clone() for name, value in model.visual.state_dict().items()}
    optimizer = torch.optim.Adam([value for value in model.parameters() if value.requires_grad], lr=5e-4)
    losses = []
    for _ in range(5):
        loss = compute_loss(model, images, valid_tokens)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < losses[0]
    assert all(torch.equal(value, before[name]) for name, value in model.visual.state_dict().items())


def test_the_trunk_stays_in_eval_mode(build_model: Build, images: torch.Tensor) -> None:
    model = build_model("Tiny-no-ln-pre").train()
    assert model.training
    assert model.taps.training
    assert not any(module.training for module in model.visual.modules())
    assert torch.equal(model(images).class_logits, model.eval()(images).class_logits)


def test_logits_are_finite_float32_under_bf16_autocast(
    build_model: Build, images: torch.Tensor, valid_tokens: torch.Tensor
) -> None:
    for padding in ("masked", "attention"):
        model = build_model(padding=padding)
        exact = model(images, valid_tokens)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = model(images, valid_tokens)
            loss = compute_loss(model, images, valid_tokens)
        assert output.class_logits.dtype == output.token_logits.dtype == loss.dtype == torch.float32
        assert all(torch.isfinite(value).all() for value in output[:3])
        torch.testing.assert_close(output.image_score, exact.image_score, rtol=0, atol=0.05)
        loss.backward()
        assert all(torch.isfinite(value.grad).all() for value in model.parameters() if value.grad is not None)


def test_trained_tensors_survive_saving_and_loading(build_model: Build, images: torch.Tensor) -> None:
    trained, fresh = build_model(), build_model()
    assert not torch.equal(trained(images).token_logits, fresh(images).token_logits)
    fresh.load_trainable_state_dict({name: value.clone() for name, value in trained.trainable_state_dict().items()})
    assert torch.equal(trained(images).token_logits, fresh(images).token_logits)
    assert fresh.patch_head.weight.requires_grad


def test_a_state_that_does_not_fit_is_named_and_changes_nothing(build_model: Build) -> None:
    model = build_model()
    before = {name: value.clone() for name, value in model.trainable_state_dict().items()}
    state = {name: torch.zeros_like(value) for name, value in before.items()}
    del state["patch_head.bias"]
    state["taps.9.ffe.linear.bias"] = torch.zeros(1)
    state["taps.0.ffe.linear.bias"] = torch.zeros(3)
    state["taps.1.lfs.conv.bias"][0] = torch.nan
    message = (
        "Adapter state does not fit: missing patch_head.bias; unknown taps.9.ffe.linear.bias; "
        r"reshaped taps.0.ffe.linear.bias \(3,\), expected \(64,\); non-finite taps.1.lfs.conv.bias"
    )
    with pytest.raises(ValueError, match=message):
        model.load_trainable_state_dict(state)
    assert all(torch.equal(value, before[name]) for name, value in model.trainable_state_dict().items())


def test_parameter_counts_of_the_default_backbone() -> None:
    with torch.device("meta"):
        clip = open_clip.create_model("ViT-L-14-336", device="meta", force_quick_gelu=True)
        taps = {
            block: FrequencyTap(FFEAdapter(1024, 3), LFSAdapter(1024, 3), fusion_weight=0.1)
            for block in (5, 11, 17, 23)
        }
        model = FeClipModel(Backbone(clip=clip, digest=""), torch.zeros(1, 2, 768), taps)
    adapters = sum(parameter.numel() for parameter in model.taps.parameters())
    head = sum(parameter.numel() for parameter in model.patch_head.parameters())
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert (adapters, head) == (41_951_232, 787_200)
    assert trainable == adapters + head
    assert model.token_grid == (24, 24)
