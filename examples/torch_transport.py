"""Entropic optimal transport as a differentiable torch function.

The gradients are exact by the envelope theorem: the potentials for the weights, the plan for the
costs. Nothing is differentiated through the iteration. Here points are moved down the gradient.
"""

import torch

import lowla


class Transport(torch.autograd.Function):
    """min <P, C> + reg · Σ P (log P - 1) as a function of a, b and C."""

    @staticmethod
    def forward(ctx, a, b, C, reg):
        r = lowla.sinkhorn(a, b, C, reg)
        ctx.save_for_backward(r.grad_a.to(a), r.grad_b.to(b), r.grad_C)
        return C.new_tensor(r.value)

    @staticmethod
    def backward(ctx, grad):
        by_a, by_b, by_C = ctx.saved_tensors
        return grad * by_a, grad * by_b, grad * by_C, None


if __name__ == "__main__":
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    X, Y = torch.randn(60, 2), torch.randn(50, 2) + 3.0
    a, b = torch.full((60,), 1 / 60), torch.full((50,), 1 / 50)
    X.requires_grad_()
    for step in range(5):
        loss = Transport.apply(a, b, torch.cdist(X, Y) ** 2, 0.05)
        (gradient,) = torch.autograd.grad(loss, X)
        print(f"step {step}: {loss.item():.4f}")
        with torch.no_grad():
            X -= 15.0 * gradient
