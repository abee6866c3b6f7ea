"""Ten training steps as open_clip_train makes them: batch 8, stored order, 3 steps an epoch, cosine over 12 steps; for the
scripts beside it."""
import math
import torch
from open_clip_train.scheduler import cosine_lr


def adamw(plain, decaying):
    return torch.optim.AdamW([{"params": plain, "weight_decay": 0.0}, {"params": decaying, "weight_decay": 0.2}], lr=1e-3, betas=(0.9, 0.98), eps=1e-6)


def train_ten(model, loss_of, lr=1e-3, optimizer=adamw):
    """loss_of(i): the loss of the eight pairs from i on. Returns what the log has of each step."""
    excl = lambda n, p: p.ndim < 2 or "bn" in n or "ln" in n or "bias" in n or "logit_scale" in n
    named = list(model.named_parameters())
    opt = optimizer([p for n, p in named if excl(n, p)], [p for n, p in named if not excl(n, p)])
    sched = cosine_lr(opt, lr, 2, 12)
    log = []
    for step in range(10):
        sched(step); opt.zero_grad()
        scale = model.logit_scale.exp().item()
        loss = loss_of(step % 3 * 8); loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        log.append({"step": step + 1, "loss": loss.item(), "logit_scale": scale, "grad_norm": norm.item(), "lr": opt.param_groups[0]["lr"]})
        opt.step()
        with torch.no_grad(): model.logit_scale.clamp_(0, math.log(100))
    return log
