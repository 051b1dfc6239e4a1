"""Published test results to stand beside ours, each with its protocol, estimator and source."""

from collections.abc import Mapping
from typing import Any, NamedTuple


class Published(NamedTuple):
    """A published number, and which of our runs it belongs to.

    Attributes:
        experiment: the name of ours.
        data: the data set, by our name of it.
        protocol: how it was made binary, by our name of it.
        settings: what our run must have been told for the two to be the same model.
        value: negative log-likelihood in nats, or bits per dimension.
        estimator: how it was measured.
        source: paper and table.
        certainty: "read in the source", "read in another paper" or "remembered".
    """

    experiment: str
    data: str
    protocol: str
    settings: Mapping[str, Any]
    value: float
    estimator: str
    source: str
    certainty: str


_STATIC = ("binarized_mnist", "static")
_DYNAMIC = ("mnist", "dynamic")
_READ, _CITED, _REMEMBERED = "read in the source", "read in another paper", "remembered"
_IMPORTANCE = "importance sampling, K=5000"

_SAMPLES = "multi-sample estimate"
_NVIL = ("Mnih & Gregor 2014, table 1", _CITED)
_ARM = ("Yin & Zhou 2019, table 2a", _READ)
_TUCKER = ("Tucker et al. 2017, as table 2a of Yin & Zhou 2019 has it", _CITED)
_RWS = ("Bornschein & Bengio 2015, table 1", _REMEMBERED)
_MANY = "importance sampling, K=100000"
_LAYERS = {"generative": "sigmoid", "recognition": "sigmoid"}
_ONE, _TWO, _THREE = [200], [200, 200], [200, 200, 200]
_BELIEF_NETS: tuple[tuple[str, list[int], dict[str, str], float, str, str, str], ...] = (
    ("nvil", _ONE, _LAYERS, 113.1, _SAMPLES, *_NVIL),
    ("nvil", _TWO, _LAYERS, 99.8, _SAMPLES, *_NVIL),
    ("nvil", _THREE, _LAYERS, 96.7, _SAMPLES, _NVIL[0], _REMEMBERED),
    ("wake_sleep", _ONE, _LAYERS, 120.8, _SAMPLES, *_NVIL),
    ("wake_sleep", _TWO, _LAYERS, 107.7, _SAMPLES, *_NVIL),
    ("arm", _ONE, _LAYERS, 107.2, _SAMPLES, *_ARM),
    ("arm", _TWO, _LAYERS, 96.7, _SAMPLES, *_ARM),
    ("rebar", _ONE, _LAYERS, 107.7, _SAMPLES, *_TUCKER),
    ("rebar", _TWO, _LAYERS, 95.4, _SAMPLES, *_TUCKER),
    ("reweighted_wake_sleep", _ONE, _LAYERS, 103.1, _MANY, *_RWS),
    ("reweighted_wake_sleep", _TWO, _LAYERS, 93.4, _MANY, *_RWS),
    ("reweighted_wake_sleep", _THREE, _LAYERS, 90.1, _MANY, *_RWS),
)
"""Estimator, layers, settings, value, how measured, source and certainty."""

PUBLISHED = (
    Published(
        "mixture_of_bernoullis",
        *_STATIC,
        {"num_components": 500},
        137.64,
        "exact",
        "Salakhutdinov & Murray 2008",
        _REMEMBERED,
    ),
    Published(
        "mixture_of_bernoullis",
        *_STATIC,
        {"num_components": 10},
        168.95,
        "exact",
        "Salakhutdinov & Murray 2008",
        _REMEMBERED,
    ),
    Published("nade", *_STATIC, {"hidden_dim": 500}, 88.33, "exact", "Uria et al. 2014", _CITED),
    Published(
        "rbm",
        *_STATIC,
        {"num_hidden": 500},
        86.34,
        "AIS (CD-25)",
        "Salakhutdinov & Murray 2008",
        _REMEMBERED,
    ),
    *(
        Published(
            "vae",
            data,
            protocol,
            {"bound": bound, "num_samples": num_samples, "latent_dim": 50, "hidden": [200, 200]},
            value,
            _IMPORTANCE,
            f"Burda et al. 2016, table {table}",
            _READ,
        )
        for (data, protocol), bound, num_samples, value, table in (
            (_STATIC, "elbo", 1, 88.71, 3),
            (_STATIC, "iwae", 5, 87.63, 3),
            (_STATIC, "iwae", 50, 87.10, 3),
            (_DYNAMIC, "elbo", 1, 86.76, 1),
            (_DYNAMIC, "iwae", 5, 85.54, 1),
            (_DYNAMIC, "iwae", 50, 84.78, 1),
        )
    ),
    *(
        Published(
            "hierarchy",
            data,
            protocol,
            {
                "model": "belief_net",
                "bound": bound,
                "num_samples": num_samples,
                "latent_dims": [100, 50],
                "hidden": [200, 100],
            },
            value,
            _IMPORTANCE,
            f"Burda et al. 2016, table {table}, two layers",
            _READ,
        )
        for (data, protocol), bound, num_samples, value, table in (
            (_STATIC, "elbo", 1, 88.08, 3),
            (_STATIC, "iwae", 5, 86.17, 3),
            (_STATIC, "iwae", 50, 85.32, 3),
            (_DYNAMIC, "elbo", 1, 85.33, 1),
            (_DYNAMIC, "iwae", 5, 83.89, 1),
            (_DYNAMIC, "iwae", 50, 82.90, 1),
        )
    ),
    Published(
        "hierarchy",
        *_DYNAMIC,
        {"model": "ladder", "latent_dims": [64, 32, 16, 8, 4]},
        81.74,
        "importance sampling; batch normalisation, fine-tuned with 10 samples",
        "Sonderby et al. 2016",
        _CITED,
    ),
    *(
        Published(
            "flow_posterior",
            *_STATIC,
            {"posterior": posterior, "num_flows": num_flows, "latent_dim": 40},
            value,
            "bound",
            "Rezende & Mohamed 2015, table 2",
            _READ,
        )
        for posterior, num_flows, value in (
            ("planar", 0, 89.9),
            ("planar", 10, 87.5),
            ("planar", 20, 86.5),
            ("planar", 40, 85.7),
            ("planar", 80, 85.1),
        )
    ),
    *(
        Published(
            "hamiltonian",
            *_STATIC,
            {"num_steps": num_steps, "num_iterations": 1},
            value,
            "importance sampling",
            "Salimans et al. 2015",
            _CITED,
        )
        for num_steps, value in ((1, 88.08), (4, 86.40), (8, 85.51))
    ),
    *(
        Published(
            "auxiliary",
            *_DYNAMIC,
            {"model": "auxiliary", "latent_dims": latent_dims, "num_samples": 1},
            value,
            _IMPORTANCE,
            f"Maaloe et al. 2016, table 3, L = {len(latent_dims)}",
            _REMEMBERED,
        )
        for latent_dims, value in (([100], 84.59), ([100, 100], 82.97))
    ),
    *(
        Published(
            "vamp_prior",
            data,
            protocol,
            {"prior": prior, "latent_dim": 40, "hidden": [300, 300]},
            value,
            _IMPORTANCE,
            "Tomczak & Welling 2018, table 1, one layer",
            _REMEMBERED,
        )
        for (data, protocol), prior, value in (
            (_STATIC, "normal", 88.56),
            (_STATIC, "vamp", 85.57),
            (_DYNAMIC, "normal", 84.50),
            (_DYNAMIC, "vamp", 82.38),
        )
    ),
    *(
        Published(
            "sigmoid_belief_net",
            *_STATIC,
            {"estimator": estimator, "latent_dims": latent_dims, "hidden": []} | settings,
            value,
            measured,
            source,
            certainty,
        )
        for estimator, latent_dims, settings, value, measured, source, certainty in _BELIEF_NETS
    ),
    Published(
        "darn",
        *_STATIC,
        {"latent_dims": [500]},
        84.71,
        "bound or importance estimate, marked as approximate",
        "Gregor et al. 2014",
        _CITED,
    ),
    Published(
        "real_nvp",
        "mnist",
        "grey",
        {"network": "multi_scale"},
        1.06,
        "exact, dequantised",
        "Grathwohl et al. 2019, table 2",
        _READ,
    ),
)


def find(result: Mapping[str, Any]) -> Published | None:
    """The published number that a result of ours stands beside, if there is one."""
    for published in PUBLISHED:
        same_data = (published.data, published.protocol) == (
            result["data"]["name"],
            result["data"]["protocol"],
        )
        settings = result["settings"]
        if (
            same_data
            and published.experiment == result["experiment"]
            and all(settings.get(name) == value for name, value in published.settings.items())
        ):
            return published
    return None
