"""The peers of `benchmarks.kalman` that have an environment of their own (`make bench-kalman-peers`).

Each is used as its documentation has it, in the fastest way that its public functions allow, on the same numbers:
batches by `vmap` where there is JAX, with the parameters' axis only where they vary, loops elsewhere; gradients are of
the summed log-likelihood with respect to m, P, A, Q, C and R. A program is a function of the task, the cell and the
numbers. It returns the step to be timed, or the reason why the peer has none.
"""

import argparse
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from benchmarks.kalman.problems import FIELDS, Arrays, Cell, serve

Program = Callable[[], Any] | str
NUMPY_DOUBLE = "float64 only"


# --- JAX: dynamax, smcx and TFP ---------------------------------------------------------------------------------------


def _jax_program(task: str, cell: Cell, arrays: Arrays, one: Callable[[str, Any, Any], Any]) -> Program:
    """vmap, grad and jit of `one(task, parameters, x)`: a sequence's log-likelihood, or four moments."""
    import jax

    # without it JAX turns float64 into float32 silently
    jax.config.update("jax_enable_x64", cell.dtype == "float64")
    parameters = {field: jax.numpy.array(arrays[field]) for field in FIELDS}
    x = jax.numpy.array(arrays["x"])
    axis = 0 if cell.varying else None
    # covariances of shared parameters know nothing of the data: without a batch axis they are computed once
    if task == "smoother":
        run = jax.vmap(partial(one, task), in_axes=(axis, 0), out_axes=(0, axis, 0, axis))
    else:
        run = jax.vmap(partial(one, "likelihood"), in_axes=(axis, 0))
        if task == "gradient":
            total = run
            run = jax.grad(lambda p, data: total(p, data).sum())
    run = jax.jit(run)

    def step() -> Any:
        # JAX returns before it has computed
        result = jax.block_until_ready(run(parameters, x))
        return result[2:] if task == "smoother" else result

    return step


def _dynamax(inference: str) -> Callable[[str, Cell, Arrays], Program]:
    def program(task: str, cell: Cell, arrays: Arrays) -> Program:
        import dynamax.linear_gaussian_ssm as lgssm

        prefix = "parallel_" if inference == "parallel" else ""
        run_filter = getattr(lgssm, f"{prefix}lgssm_filter")
        run_smoother = getattr(lgssm, f"{prefix}lgssm_smoother")

        def one(task: str, p: dict[str, Any], x: Any) -> Any:
            import jax.numpy as jnp

            n, m = p["A"].shape[-1], x.shape[-1]
            params = lgssm.ParamsLGSSM(
                lgssm.ParamsLGSSMInitial(p["initial_mean"], p["initial_covariance"]),
                lgssm.ParamsLGSSMDynamics(p["A"], jnp.zeros(n), jnp.zeros((n, 0)), p["Q"]),
                lgssm.ParamsLGSSMEmissions(p["C"], jnp.zeros(m), jnp.zeros((m, 0)), p["R"]),
            )
            if task == "likelihood":
                return run_filter(params, x).marginal_loglik
            q = run_smoother(params, x)
            return q.filtered_means, q.filtered_covariances, q.smoothed_means, q.smoothed_covariances

        return _jax_program(task, cell, arrays, one)

    return program


def _smcx(task: str, cell: Cell, arrays: Arrays) -> Program:
    import smcx

    def one(task: str, p: dict[str, Any], x: Any) -> Any:
        # T - 1 transitions: it has no entry that leads into z_1
        a, q = (p[field][1:] if cell.varying else p[field] for field in ("A", "Q"))
        found = smcx.kalman_filter(p["initial_mean"], p["initial_covariance"], a, q, p["C"], p["R"], x)
        if task == "likelihood":
            return found.marginal_loglik
        s = smcx.rts_smoother(found, a)
        return s.filtered_means, s.filtered_covariances, s.smoothed_means, s.smoothed_covariances

    return _jax_program(task, cell, arrays, one)


def _tfp(parallel: bool = False) -> Callable[[str, Cell, Arrays], Program]:
    def program(task: str, cell: Cell, arrays: Arrays) -> Program:
        def one(task: str, p: dict[str, Any], x: Any) -> Any:
            import jax.numpy as jnp
            from tensorflow_probability.substrates.jax import distributions as tfd
            from tensorflow_probability.substrates.jax import tf2jax as tf

            matrix = tf.linalg.LinearOperatorFullMatrix
            tril = {field: jnp.linalg.cholesky(p[field]) for field in ("initial_covariance", "Q", "R")}
            initial = tfd.MultivariateNormalTriL(p["initial_mean"], tril["initial_covariance"])
            # its entry t leads out of z_t, ours into z_t
            if cell.varying:

                def transition(t: Any) -> Any:
                    return jnp.minimum(t + 1, cell.T - 1)

                parts = (
                    lambda t: matrix(p["A"][transition(t)]),
                    lambda t: tfd.MultivariateNormalTriL(scale_tril=tril["Q"][transition(t)]),
                    lambda t: matrix(p["C"][t]),
                    lambda t: tfd.MultivariateNormalTriL(scale_tril=tril["R"][t]),
                )
            else:
                parts = (
                    p["A"],
                    tfd.MultivariateNormalTriL(scale_tril=tril["Q"]),
                    p["C"],
                    tfd.MultivariateNormalTriL(scale_tril=tril["R"]),
                )
            model = tfd.LinearGaussianStateSpaceModel(cell.T, *parts, initial, experimental_parallelize=parallel)
            if task == "likelihood":
                return model.log_prob(x)
            filtered = model.forward_filter(x)
            smoothed = model.backward_smoothing_pass(
                filtered.filtered_means, filtered.filtered_covs, filtered.predicted_means, filtered.predicted_covs
            )
            return filtered.filtered_means, filtered.filtered_covs, *smoothed

        return _jax_program(task, cell, arrays, one)

    return program


# --- statsmodels: compiled, a sequence at a time ---------------------------------------------------------------------


def statsmodels(task: str, cell: Cell, arrays: Arrays) -> Program:
    from statsmodels.tsa.statespace.kalman_smoother import SMOOTHER_STATE, SMOOTHER_STATE_COV, KalmanSmoother

    if task == "gradient":
        return _statsmodels_score(cell, arrays)
    # its matrices by our letters; the time axis of one that changes is the last
    names = {"design": "C", "obs_cov": "R", "transition": "A", "state_cov": "Q"}

    def last(field: str, row: int) -> np.ndarray:
        """Time is the last axis; a transition's entry t leads out of z_t."""
        value = arrays[field]
        if not cell.varying:
            return np.asfortranarray(value)
        value = value[row]
        return np.asfortranarray(np.moveaxis(np.roll(value, -1, 0) if field in "AQ" else value, 0, -1))

    def model(row: int) -> Any:
        smoother = KalmanSmoother(
            cell.data,
            cell.state,
            smoother_output=SMOOTHER_STATE | SMOOTHER_STATE_COV,
            dtype=np.dtype(cell.dtype),
        )
        smoother.bind(np.array(arrays["x"][row]))
        smoother["selection"] = np.eye(cell.state, dtype=cell.dtype)
        for name, field in names.items():
            smoother[name] = last(field, row)
        mean, covariance = arrays["initial_mean"], arrays["initial_covariance"]
        smoother.initialize_known(*(np.array(v[row] if cell.varying else v) for v in (mean, covariance)))
        return smoother

    models = [model(row) for row in range(cell.batch)]
    # bound once, outside of the timed step, as a user who fits would do
    if task == "likelihood":
        return lambda: [each.loglike() for each in models]

    def step() -> Any:
        results = [each.smooth() for each in models]
        return [r.smoothed_state.T for r in results], [np.moveaxis(r.smoothed_state_cov, -1, 0) for r in results]

    return step


def _statsmodels_score(cell: Cell, arrays: Arrays) -> Program:
    """MLEModel.score, its default method (complex steps), over every number of the six parameters."""
    from statsmodels.tsa.statespace.mlemodel import MLEModel

    if cell.varying:
        return "its score is numeric: an evaluation for each parameter, of which there are some at each time"
    if cell.dtype == "float32":
        return "its score is of float64 only"
    shapes = {field: arrays[field].shape for field in FIELDS}
    ends = np.cumsum([np.prod(shape) for shape in shapes.values()])
    start = np.concatenate([np.ravel(arrays[field]) for field in FIELDS]).astype(float)

    class Model(MLEModel):
        start_params = start

        def __init__(self, x: np.ndarray) -> None:
            super().__init__(x, cell.state, selection=np.eye(cell.state))
            self.update(start)

        def update(self, params: np.ndarray, **kwargs: Any) -> None:
            params = super().update(params, **kwargs)
            pieces = np.split(params, ends[:-1])
            p = {f: piece.reshape(shape) for (f, shape), piece in zip(shapes.items(), pieces, strict=True)}
            self["transition"], self["state_cov"], self["design"], self["obs_cov"] = p["A"], p["Q"], p["C"], p["R"]
            self.ssm.initialize_known(p["initial_mean"], p["initial_covariance"])

    models = [Model(np.array(x)) for x in arrays["x"]]

    def step() -> Any:
        pieces = np.split(sum(each.score(start) for each in models), ends[:-1])
        return {f: piece.reshape(shape) for (f, shape), piece in zip(shapes.items(), pieces, strict=True)}

    return step


# --- numpy, interpreted ----------------------------------------------------------------------------------------------


def pykalman(task: str, cell: Cell, arrays: Arrays) -> Program:
    from pykalman import KalmanFilter

    if task == "gradient":
        return "no gradient"
    if cell.dtype == "float32":
        return NUMPY_DOUBLE

    def model(row: int) -> Any:
        p = {f: np.array(arrays[f][row] if cell.varying else arrays[f]) for f in FIELDS}
        # T - 1 transitions: it has no entry that leads into z_1
        if cell.varying:
            p["A"], p["Q"] = p["A"][1:], p["Q"][1:]
        return KalmanFilter(
            transition_matrices=p["A"],
            observation_matrices=p["C"],
            transition_covariance=p["Q"],
            observation_covariance=p["R"],
            initial_state_mean=p["initial_mean"],
            initial_state_covariance=p["initial_covariance"],
        )

    if cell.varying and task == "likelihood":
        return "its likelihood takes no observation covariance that changes in time"
    pairs = [(model(row), np.array(x)) for row, x in enumerate(arrays["x"])]
    if task == "likelihood":
        return lambda: [each.loglikelihood(x) for each, x in pairs]
    return lambda: tuple(zip(*(each.smooth(x) for each, x in pairs), strict=True))


def filterpy(task: str, cell: Cell, arrays: Arrays) -> Program:
    from filterpy.kalman import KalmanFilter

    if task == "gradient":
        return "no gradient"
    if cell.dtype == "float32":
        return NUMPY_DOUBLE

    def model(row: int) -> tuple[Any, dict[str, list[np.ndarray]]]:
        p = {f: np.array(arrays[f][row] if cell.varying else arrays[f]) for f in FIELDS}
        each = KalmanFilter(cell.state, cell.data)
        each.x, each.P = p["initial_mean"], p["initial_covariance"]
        # with the update before the prediction, its entry t leads out of z_t
        if cell.varying:
            out = {"Fs": np.roll(p["A"], -1, 0), "Qs": np.roll(p["Q"], -1, 0), "Hs": p["C"], "Rs": p["R"]}
            return each, {name: list(v) for name, v in out.items()}
        each.F, each.Q, each.H, each.R = p["A"], p["Q"], p["C"], p["R"]
        return each, {}

    def start(row: int) -> tuple[Any, dict[str, list[np.ndarray]]]:
        each, varying = models[row]
        mean, covariance = arrays["initial_mean"], arrays["initial_covariance"]
        each.x, each.P = (np.array(v[row] if cell.varying else v) for v in (mean, covariance))
        return each, varying

    def likelihood() -> list[float]:
        totals = []
        for row, x in enumerate(data):
            each, varying = start(row)
            total = 0.0
            for t, frame in enumerate(x):
                at = {name: v[t] for name, v in varying.items()}
                each.update(frame, R=at.get("Rs"), H=at.get("Hs"))
                total += each.log_likelihood
                each.predict(F=at.get("Fs"), Q=at.get("Qs"))
            totals.append(total)
        return totals

    def smoother() -> Any:
        results = []
        for row, x in enumerate(data):
            each, varying = start(row)
            means, covariances, _, _ = each.batch_filter(x, update_first=True, **varying)
            out = {name: v[-1:] + v[:-1] for name, v in varying.items() if name in ("Fs", "Qs")}  # here into z_t
            results.append(each.rts_smoother(means, covariances, **out)[:2])
        return tuple(zip(*results, strict=True))

    models = [model(row) for row in range(cell.batch)]
    data = [list(np.array(x)) for x in arrays["x"]]
    return likelihood if task == "likelihood" else smoother


def simdkalman(task: str, cell: Cell, arrays: Arrays) -> Program:
    from simdkalman import KalmanFilter

    if task == "gradient":
        return "no gradient"
    if cell.varying:
        return "no parameters that change in time"
    p = {f: np.array(arrays[f]) for f in FIELDS}
    x = np.array(arrays["x"])
    model = KalmanFilter(p["A"], p["Q"], p["C"], p["R"])
    first = {"initial_value": p["initial_mean"], "initial_covariance": p["initial_covariance"], "observations": False}
    # its likelihood leaves the constant out; computed outside of the timed step
    constant = 0.5 * cell.T * cell.data * np.log(2 * np.pi)
    if task == "likelihood":
        return lambda: model.compute(x, 0, smoothed=False, log_likelihood=True, **first).log_likelihood - constant

    def step() -> Any:
        states = model.compute(x, 0, filtered=True, **first).smoothed.states
        return states.mean, states.cov

    return step


PEERS: dict[str, Callable[[str, Cell, Arrays], Program]] = {
    "dynamax": _dynamax("serial"),
    "dynamax, parallel": _dynamax("parallel"),
    "TFP": _tfp(),
    "smcx": _smcx,
    "statsmodels": statsmodels,
    "pykalman": pykalman,
    "filterpy": filterpy,
    "simdkalman": simdkalman,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=PEERS)
    warnings.simplefilter("ignore")
    serve(PEERS[parser.parse_args().peer])


if __name__ == "__main__":
    main()
