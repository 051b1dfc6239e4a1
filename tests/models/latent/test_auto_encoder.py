"""The auto-encoder's two maps, what replaces them, and errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from genjax_models import networks
from genjax_models.models import likelihoods
from genjax_models.models.latent import auto_encoder, tied_auto_encoder
from tests.statistics import jit_once

X = jnp.array([0.3, -1.2, 0.8, 0.1])


def dense(x: np.ndarray, params: dict, index: int) -> np.ndarray:
    layer = params["params"][f"Dense_{index}"]
    return x @ np.asarray(layer["kernel"], np.float64) + np.asarray(layer["bias"], np.float64)


@pytest.mark.parametrize("code", ["linear", "sigmoid"])
@pytest.mark.parametrize("hidden", [(), (3,)])
def test_it_is_its_formula(hidden: tuple[int, ...], code: str) -> None:
    model = auto_encoder(num_dims=4, code_dim=2, hidden=hidden, code=code)

    @jit_once
    def run(key):
        params = jax.tree.map(lambda leaf: leaf + 0.2, model.init(key))
        found = model.encode(params, X)
        return params, found, model.decode(params, found), model.decode(params, found).log_prob(X)

    params, found, distribution, log_prob = run(jax.random.key(0))
    exact = np.asarray(X, np.float64)
    for index in range(len(hidden)):
        exact = np.tanh(dense(exact, params["encoder"], index))
    exact = dense(exact, params["encoder"], len(hidden))
    if code == "sigmoid":
        exact = 1 / (1 + np.exp(-exact))
    np.testing.assert_allclose(found, exact, rtol=1e-5)
    decoder = params["decoder"]["network"]
    for index in range(len(hidden)):
        exact = np.tanh(dense(exact, decoder, index))
    mean = dense(exact, decoder, len(hidden))
    np.testing.assert_allclose(distribution.mean(), mean, rtol=1e-5)
    # The scale is one learned number, moved from 1 with all other parameters.
    assert log_prob == pytest.approx(stats.norm(mean, np.exp(0.2)).logpdf(X).sum(), rel=1e-5)


@pytest.mark.parametrize(
    ("likelihood", "num_levels", "num_outputs"),
    [("bernoulli", None, 4), ("discretized_logistic", 5, 8), (likelihoods.gaussian(), None, 4)],
)
def test_the_decoder_gives_what_the_likelihood_wants(likelihood, num_levels, num_outputs) -> None:
    model = auto_encoder(
        num_dims=4, code_dim=2, hidden=(3,), likelihood=likelihood, num_levels=num_levels
    )
    params = jax.eval_shape(model.init, jax.random.key(0))
    assert params["decoder"]["network"]["params"]["Dense_1"]["kernel"].shape == (3, num_outputs)


def test_any_network_may_encode_and_decode() -> None:
    shape = (4, 6)
    for encoder in (
        networks.convolutional_encoder(shape, 3, features=(2,)),
        networks.recurrent_encoder(shape, 3, num_units=4),
        networks.attention_encoder(shape, 3, num_features=4),
    ):
        decoder = networks.convolutional_decoder(3, shape, features=(2,))
        model = auto_encoder(num_dims=24, code_dim=3, encoder=encoder, decoder=decoder)

        def run(key, model=model):
            params = model.init(key)
            code = model.encode(params, jnp.zeros(24))
            return code, model.decode(params, code).mean()

        code, mean = jax.eval_shape(run, jax.random.key(0))
        assert (code.shape, mean.shape) == ((3,), (24,))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"code_dim": 0}, "code_dim must be at least 1, got 0"),
        ({"num_dims": 0}, "num_dims must be at least 1, got 0"),
        ({"hidden": (3, 0)}, r"hidden must be at least 1, got \(3, 0\)"),
        ({"code": "tanh"}, r"code must be one of \['linear', 'sigmoid'\], got 'tanh'"),
        ({"likelihood": "poisson"}, "likelihood must be one of"),
        ({"encoder": networks.mlp(4, (), 3)}, r"encoder must map \[4\] to \[2\]"),
        ({"decoder": networks.mlp(2, (), 5)}, r"decoder must map \[2\] to \[4\]"),
    ],
)
def test_bad_input_is_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(
            auto_encoder(**{"num_dims": 4, "code_dim": 2} | settings).init, jax.random.key(0)
        )


@pytest.mark.parametrize("make", [networks.recurrent_encoder, networks.attention_encoder])
def test_an_encoder_of_images_of_another_size_is_refused(make) -> None:
    model = auto_encoder(num_dims=20, code_dim=2, encoder=make((4, 6), 2))
    # It is `init` that finds it, in the encoder's own words.
    with pytest.raises(ValueError, match=r"one example of shape \(24,\), got \(20,\)"):
        jax.eval_shape(model.init, jax.random.key(0))


@pytest.mark.parametrize("code", ["linear", "sigmoid"])
def test_tied_weights_are_one_matrix_both_ways(code: str) -> None:
    model = tied_auto_encoder(num_dims=4, code_dim=3, code=code, likelihood="bernoulli")

    @jit_once
    def run(key):
        params = jax.tree.map(lambda leaf: leaf + 0.2, model.init(key))
        return params, model.decode(params, model.encode(params, X)).mean()

    params, mean = run(jax.random.key(0))
    matrix = np.float64(params["encoder"]["weights"])
    assert matrix.shape == (3, 4)
    hidden = matrix @ np.float64(X) + 0.2
    if code == "sigmoid":
        hidden = 1 / (1 + np.exp(-hidden))
    logits = matrix.T @ hidden + 0.2
    np.testing.assert_allclose(mean, 1 / (1 + np.exp(-logits)), rtol=1e-5)


def test_tied_weights_give_one_output_a_dimension() -> None:
    with pytest.raises(ValueError, match=r"likelihood must have one output .*got 2"):
        tied_auto_encoder(num_dims=4, likelihood=likelihoods.discretized_logistic(17))
    with pytest.raises(ValueError, match="code must be one of"):
        tied_auto_encoder(num_dims=4, code="tanh")
    with pytest.raises(ValueError, match="code_dim must be at least 1"):
        tied_auto_encoder(num_dims=4, code_dim=0)
