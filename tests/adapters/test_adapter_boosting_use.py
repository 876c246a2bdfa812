"""The boosting objectives in use: processes, pickling, searches, wrong labels, ignored options."""

from __future__ import annotations

import inspect
import multiprocessing
import os
import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from fusedce.adapters.boosting import (
    BinaryCrossEntropy,
    Objective,
    SigmoidFocal,
    SoftmaxFocal,
)
from fusedce.adapters.rules import convex, derived
from fusedce.kernels.rule import RULES
from tests.adapters.test_adapter_boosting import CAT, LGB, OBJECTIVES, XGB, Brier, brier

ROOT = Path(__file__).parents[2]
N = 300
LIBRARIES = ["xgboost", "lightgbm", "catboost"]
libraries = pytest.mark.parametrize("library", LIBRARIES)


@pytest.fixture(name="rows", scope="module")
def training_rows():
    """Features, binary labels, labels of three classes, and three binary labels for each row."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(N, 4))
    s = x[:, 0] + x[:, 1] * x[:, 2] + rng.normal(size=N)
    several = np.stack([s > 0, s > 1, x[:, 3] > 0], axis=1).astype(int)
    return x, (s > 0.5).astype(int), np.digitize(s, [-1, 1]), several


def classifier(library, objective, tmp_path, trees=10, **options):
    """A model of the library with the objective and its metric; no metric of the library's own."""
    module = pytest.importorskip(library)
    if library == "xgboost":
        options = {"eval_metric": objective.xgboost_metric} | options
        return module.XGBClassifier(objective=objective, n_estimators=trees, n_jobs=1, **options)
    if library == "lightgbm":
        options = {"metric": "None", "verbosity": -1, "n_jobs": 1} | options
        return module.LGBMClassifier(objective=objective, n_estimators=trees, **options)
    classes = (0, 1) if objective.activation == "sigmoid" else (0, 1, 2)
    usual = {k: v for k, v in CAT.items() if not k.startswith("leaf")}
    usual |= {"train_dir": str(tmp_path), "iterations": trees, "class_names": classes}
    usual |= {"loss_function": objective, "eval_metric": objective.catboost_metric}
    return module.CatBoostClassifier(**usual | options)


def raw_scores(library, model, x):
    """The raw scores that the model predicts, without an activation."""
    options = {"xgboost": {"output_margin": True}, "lightgbm": {"raw_score": True},
               "catboost": {"prediction_type": "RawFormulaVal"}}  # fmt: skip
    return model.predict(x, **options[library])


# --------------------------------------------------------------------- other processes

SCRIPT = """
import multiprocessing, sys
from typing import NamedTuple
import numpy as np, fusedce
from fusedce.adapters.boosting import Objective

RULE

z = np.linspace(-3, 3, 40, dtype=np.float32)
y = (np.arange(40) * 7 % 3 == 0).astype(int)

def call(objective):
    return objective(y, z)

if __name__ == "__main__":
    objective = Objective(Brier(2.0), "sigmoid")
    want = call(objective)
    for method in sys.argv[1:]:
        if method == "joblib":
            from sklearn.model_selection import cross_val_score
            from xgboost import XGBClassifier
            model = XGBClassifier(objective=objective, n_estimators=2, n_jobs=1)
            scores = cross_val_score(model, z[:, None], y, cv=2, n_jobs=2, error_score="raise")
            assert np.isfinite(scores).all(), scores
        else:
            with multiprocessing.get_context(method).Pool(1) as pool:
                assert np.array_equal(pool.map(call, [objective])[0], want), method
"""


@pytest.mark.slow(reason="each process compiles the rule's kernels")
def test_a_rule_of_a_script(tmp_path):
    """A rule that a script defines works in forked and spawned processes and in joblib's workers.

    A forked process has it already, a spawned one imports the script, joblib sends it by value.
    """
    pytest.importorskip("joblib")
    pytest.importorskip("xgboost")
    methods = [m for m in ("fork", "spawn") if m in multiprocessing.get_all_start_methods()]
    path = tmp_path / "script.py"
    rule = inspect.getsource(Brier) + inspect.getsource(brier)
    path.write_text(SCRIPT.replace("RULE", rule))
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(path), *methods, "joblib"]
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()[-2000:]


def test_a_rule_that_nobody_knows():
    """A rule whose class is not registered, as after a copy by dill, raises a TypeError."""
    objective = Objective(Brier())
    objective.rule = type("Lost", (tuple,), {})()
    for call in (
        lambda: objective(np.array([0, 1]), np.zeros(2)),
        lambda: objective.xgboost_metric([0, 1], np.zeros(2)),
        lambda: objective.init_score([0, 1]),
    ):
        with pytest.raises(TypeError, match=r"registered with fusedce\.rule, got \(\)"):
            call()


def test_a_derived_rule_arrives_with_its_class():
    """A derived rule's class is found as an attribute of the base class and registered again."""
    rule = derived(Brier(3.0), convex)
    del RULES[type(rule)]
    again = derived(Brier(3.0), convex)
    assert type(again) is type(rule)
    assert type(again) in RULES


@libraries
@pytest.mark.parametrize("classes", [2, 3])
def test_fitted_models_are_pickled(library, classes, rows, tmp_path):
    x, two, three, _ = rows
    objective = SigmoidFocal() if classes == 2 else SoftmaxFocal()
    trees = 3 if library == "catboost" else 10
    model = classifier(library, objective, tmp_path, trees).fit(x, two if classes == 2 else three)
    other = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(raw_scores(library, other, x), raw_scores(library, model, x))
    if library != "lightgbm":  # predict_proba of LightGBM is that of its own objectives
        want = objective.predict_proba(raw_scores(library, model, x))
        np.testing.assert_allclose(other.predict_proba(x), want, atol=1e-6)


# --------------------------------------------------------------------- what is shown


def test_repr():
    """repr also shows default values, so that best_params_ of a search names the best objective."""
    assert repr(SigmoidFocal(2.0, alpha=0.25)) == (
        "SigmoidFocal(gamma=2.0, alpha=0.25, pos_weight=None, hessian='psd', hessian_factor=None)"
    )
    assert repr(BinaryCrossEntropy()) == "BinaryCrossEntropy(pos_weight=None, hessian_factor=None)"
    for objective in OBJECTIVES:
        for name in ("xgboost_metric", "lightgbm_metric", "catboost_metric"):
            assert repr(getattr(objective, name)) == f"{objective!r}.{name}"


def test_name_of_catboost_metric(rows, tmp_path):
    x, y, _, _ = rows
    model = classifier("catboost", SigmoidFocal(1.0), tmp_path, 3).fit(x, y, eval_set=(x, y))
    assert list(model.get_evals_result()["validation"]) == ["SigmoidFocal"]
    metric = pickle.loads(pickle.dumps(SoftmaxFocal(3.0).catboost_metric))
    assert type(metric).__name__ == metric.__name__ == "SoftmaxFocal"
    assert metric.objective.gamma == 3.0


# --------------------------------------------------------------------- early stopping, searches


@libraries
@pytest.mark.parametrize("classes", [2, 3])
def test_early_stopping(library, classes, rows, tmp_path):
    """Training stops early, the best round has the smallest held-out loss, and nothing warns."""
    x, two, three, _ = rows
    objective = SigmoidFocal(2.0) if classes == 2 else SoftmaxFocal(2.0)
    y, half = (two if classes == 2 else three), N // 2
    args, trees = (x[:half], y[:half]), 200
    if library == "catboost" and classes == 3:  # called for each row
        args, trees = (x[:60], y[:60]), 30
    rate = {"learning_rate": 0.5}
    if library == "xgboost":
        model = classifier(library, objective, tmp_path, trees, early_stopping_rounds=3, **rate)
        model.fit(*args, eval_set=[(x[half:], y[half:])], verbose=False)
        curve, best = model.evals_result()["validation_0"][type(objective).__name__], None
        best = model.best_iteration
    elif library == "lightgbm":
        lgb = pytest.importorskip("lightgbm")
        model = classifier(library, objective, tmp_path, trees, **rate)
        model.fit(*args, eval_X=x[half:], eval_y=y[half:], eval_metric=objective.lightgbm_metric,
                  callbacks=[lgb.early_stopping(3, verbose=False)])  # fmt: skip
        assert list(model.evals_result_["valid_0"]) == [type(objective).__name__]
        curve, best = next(iter(model.evals_result_["valid_0"].values())), model.best_iteration_ - 1
    else:
        model = classifier(library, objective, tmp_path, trees, **rate)
        model.fit(*args, eval_set=(x[half:], y[half:]), early_stopping_rounds=3)
        curve = model.get_evals_result()["validation"][type(objective).__name__]
        best = model.get_best_iteration()
    assert best == int(np.argmin(curve))
    assert 0 < best < trees - 1
    raw = raw_scores(library, model, x[half:])
    np.testing.assert_allclose(objective.xgboost_metric(y[half:], raw), min(curve), rtol=1e-5)


@libraries
def test_cv(library, rows, tmp_path, monkeypatch):
    """The libraries' own cross-validation reports the objective's loss and no default metric."""
    monkeypatch.chdir(tmp_path)  # catboost.cv makes folders, whatever allow_writing_files says
    module = pytest.importorskip(library)
    x, y, _, _ = rows
    focal = SigmoidFocal(2.0)
    if library == "xgboost":
        params = XGB | {"disable_default_eval_metric": 1}
        found = module.cv(params, module.DMatrix(x, y), 40, nfold=3, obj=focal, as_pandas=False,
                          custom_metric=focal.xgboost_metric, early_stopping_rounds=3)  # fmt: skip
    elif library == "lightgbm":
        params = LGB | {"objective": focal, "early_stopping_round": 3}
        found = module.cv(params, module.Dataset(x, y), 40, nfold=3, feval=focal.lightgbm_metric)
    else:
        params = {"loss_function": focal, "eval_metric": focal.catboost_metric, "iterations": 5,
                  "allow_writing_files": False, "logging_level": "Silent"}  # fmt: skip
        found = module.cv(module.Pool(x, y), params, fold_count=2, as_pandas=False)
    names = {"xgboost": "test-SigmoidFocal-mean", "lightgbm": "valid SigmoidFocal-mean",
             "catboost": "test-SigmoidFocal-mean"}  # fmt: skip
    curve = found[names[library]]
    start = np.log(2) / 4  # of scores that are 0
    assert curve[-1] == min(curve) < (start if library != "xgboost" else 0.2)
    assert not any("rmse" in name or "logloss" in name for name in found)


@libraries
def test_searches(library, rows, tmp_path):
    """A grid search gets finite scores that differ, and best_params_ shows the best objective."""
    select = pytest.importorskip("sklearn.model_selection")
    metrics = pytest.importorskip("sklearn.metrics")
    x, y, _, _ = rows
    model = classifier(library, SigmoidFocal(), tmp_path)
    key = "loss_function" if library == "catboost" else "objective"
    grid = {key: [SigmoidFocal(g) for g in (0.0, 2.0, 30.0)]}

    def score(model, x, y):
        return metrics.average_precision_score(y, model.predict(x, raw_score=True))

    scoring = score if library == "lightgbm" else "average_precision"
    found = select.GridSearchCV(model, grid, scoring=scoring, cv=2).fit(x, y)
    scores = found.cv_results_["mean_test_score"]
    assert np.isfinite(scores).all()
    assert len(set(scores)) > 1
    best = found.best_params_[key]
    assert best.gamma == (0.0, 2.0, 30.0)[int(np.argmax(scores))]
    assert f"gamma={best.gamma}" in repr(found.best_params_)
    if library != "lightgbm":  # labels and probabilities too
        for scoring in (None, "neg_log_loss", "roc_auc"):
            assert np.isfinite(select.cross_val_score(model, x, y, scoring=scoring, cv=2)).all()


def test_a_search_by_the_loss(rows):
    lgb = pytest.importorskip("lightgbm")
    search = pytest.importorskip("sklearn.model_selection").GridSearchCV
    x, y, _, _ = rows
    model = lgb.LGBMClassifier(n_estimators=3, n_jobs=1, verbosity=-1)
    grid = {"objective": [SigmoidFocal(g) for g in (0.0, 2.0)]}

    def score(fitted, x, y):
        return -fitted.objective.xgboost_metric(y, fitted.predict(x, raw_score=True))

    found = search(model, grid, scoring=score, cv=2).fit(x, y)
    assert found.best_params_["objective"].gamma == 2.0


@libraries
def test_calibration_and_several_labels(library, rows, tmp_path):
    """CalibratedClassifierCV and MultiOutputClassifier work around a model with the objective."""
    calibration = pytest.importorskip("sklearn.calibration")
    multioutput = pytest.importorskip("sklearn.multioutput")
    x, y, _, several = rows
    model = classifier(library, SigmoidFocal(), tmp_path, 30)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Cannot compute class probabilities")  # LightGBM's
        fitted = calibration.CalibratedClassifierCV(model, cv=2).fit(x, y)
        p = fitted.predict_proba(x)[:, 1]
        many = multioutput.MultiOutputClassifier(model).fit(x, several)
        answers = np.asarray(many.predict(x)) > 0
    assert p[y == 1].mean() > p[y == 0].mean() + 0.2
    assert answers.shape == several.shape
    assert (answers == several).mean() > 0.8


# --------------------------------------------------------------------- the wrong kind of labels


@pytest.mark.parametrize(
    ("library", "objective", "labels", "text"),
    [
        ("xgboost", SigmoidFocal(), "three", "several classes need SoftmaxFocal"),
        ("lightgbm", SigmoidFocal(), "three", "several classes need SoftmaxFocal"),
        ("catboost", SigmoidFocal(), "three", "several classes need SoftmaxFocal"),
        ("xgboost", SoftmaxFocal(), "two", "labels 0 and 1 need SigmoidFocal"),
        ("lightgbm", SoftmaxFocal(), "two", "labels 0 and 1 need SigmoidFocal"),
        ("catboost", SoftmaxFocal(), "two", "labels 0 and 1 need SigmoidFocal"),
        ("xgboost", SigmoidFocal(), "several", "MultiOutputClassifier"),
        ("xgboost", SoftmaxFocal(), "several", "MultiOutputClassifier"),
    ],
)
def test_the_wrong_kind_of_labels(library, objective, labels, text, rows, tmp_path):
    x, two, three, several = rows
    y = {"two": two, "three": three, "several": several}[labels]
    options = {"class_names": None} if library == "catboost" else {}
    error = ValueError
    if library == "catboost":
        error = pytest.importorskip("catboost").CatBoostError
    with pytest.raises(error, match=text):
        classifier(library, objective, tmp_path, 2, **options).fit(x, y)


@libraries
def test_labels_in_a_column(library, rows, tmp_path):
    """Labels (n, 1) are those of (n,) to each library's classifier, never class indices."""
    x, y, _, _ = rows
    scores = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn's DataConversionWarning
        for labels in (y, y[:, None]):
            model = classifier(library, SigmoidFocal(), tmp_path).fit(x, labels)
            scores.append(raw_scores(library, model, x))
    np.testing.assert_array_equal(*scores)
    column = scores[0][:, None]
    for call in (
        lambda: SigmoidFocal().predict_proba(column),
        lambda: SigmoidFocal()(y, column),
        lambda: SigmoidFocal().xgboost_metric(y, column),
        lambda: SigmoidFocal().calc_ders_range(column, y),
        lambda: SigmoidFocal().calc_ders_multi([0.5], 1),
    ):
        with pytest.raises(ValueError, match=r"y_pred must have shape \(n,\), got \(\d+, 1\); one"):
            call()
    for call in (
        lambda: SigmoidFocal()(y[:, None], column),
        lambda: SigmoidFocal().init_score(y[:, None]),
    ):
        with pytest.raises(ValueError, match=r"y_true must have .*; one column is y_true\[:, 0\]"):
            call()


# --------------------------------------------------------------------- options that are ignored

TRAIN = {"num_threads": 1, "verbosity": -1}


def trained(library, params, objective, x, y, tmp_path, **options):
    """A model after two rounds of the library's own training function."""
    module = pytest.importorskip(library)
    if library == "xgboost":
        data = module.DMatrix(x, y)
        evals = {"evals": [(data, "v")], "verbose_eval": False} if options else {}
        return module.train(params, data, 2, obj=objective, **evals, **options)
    if library == "lightgbm":
        data = module.Dataset(x, y)
        return module.train(TRAIN | params | {"objective": objective}, data, 2, **options)
    return classifier(library, objective, tmp_path, 2, **params).fit(x, y)


@pytest.mark.parametrize(
    ("library", "params", "text"),
    [
        ("xgboost", {"scale_pos_weight": 3.0}, "scale_pos_weight=3.0 .*pos_weight=3.0"),
        ("lightgbm", {"scale_pos_weight": 3.0}, "scale_pos_weight=3.0 .*pos_weight=3.0"),
        ("lightgbm", {"is_unbalance": True}, "is_unbalance=True .*pos_weight=negatives / pos"),
        ("lightgbm", {"unbalance": "true"}, "LightGBM ignores unbalance='true' with"),
        ("catboost", {"class_weights": (1, 3), "class_names": None}, "told class_names=.0, 1."),
        ("catboost", {"auto_class_weights": "Balanced", "class_names": None}, "'Balanced'"),
    ],
)
def test_weights_that_libraries_ignore(library, params, text, rows, tmp_path):
    """The objective warns once, at the user's line; the model is the one without the weights."""
    x, y, _, _ = rows
    objective = SigmoidFocal(1.0)
    with pytest.warns(UserWarning, match=text) as said:
        model = trained(library, params, objective, x, y, tmp_path)
    assert len(said) == 1
    assert said[0].filename == __file__
    plain = {"class_names": None} if library == "catboost" else {}
    data = pytest.importorskip("xgboost").DMatrix(x) if library == "xgboost" else x
    more = {"catboost": {"prediction_type": "RawFormulaVal"}}.get(library, {})
    want = trained(library, plain, objective, x, y, tmp_path).predict(data, **more)
    np.testing.assert_array_equal(model.predict(data, **more), want)


def test_weights_of_classifiers_that_are_ignored(rows, tmp_path):
    """The scikit-learn classes warn as train does; for softmax, XGBoost has its own warning."""
    x, y, three, _ = rows
    for library, objective, labels, text in (
        ("xgboost", SigmoidFocal(1.0), y, r"SigmoidFocal\(pos_weight=3\) weights the positives"),
        ("lightgbm", SigmoidFocal(1.0), y, r"SigmoidFocal\(pos_weight=3\) weights the positives"),
        ("lightgbm", SoftmaxFocal(1.0), three, "sample_weight= of fit"),
    ):
        model = classifier(library, objective, tmp_path, 3, scale_pos_weight=3)
        with pytest.warns(UserWarning, match=text):
            model.fit(x, labels)


@pytest.mark.parametrize(
    ("library", "params"),
    [
        ("xgboost", {"scale_pos_weight": 1}),
        ("lightgbm", {"scale_pos_weight": 1.0, "is_unbalance": False}),
        ("lightgbm", {"unbalance": "false"}),
        ("catboost", {"class_weights": (1, 3)}),
    ],
)
def test_nothing_to_warn_of(library, params, rows, tmp_path):
    x, y, _, _ = rows
    trained(library, params, SigmoidFocal(1.0), x, y, tmp_path)


def test_catboost_weights_classes_it_knows(rows, tmp_path):
    """With class_names, CatBoost applies class_weights: the same model as with sample_weight."""
    x, y, _, _ = rows
    models = [
        classifier("catboost", SigmoidFocal(1.0), tmp_path, 5, **weights).fit(x, y, sample_weight=w)
        for weights, w in (({"class_weights": (1, 4)}, None), ({}, np.where(y, 4.0, 1.0)))
    ]
    a, b = (raw_scores("catboost", model, x) for model in models)
    np.testing.assert_allclose(a, b, rtol=1e-12)


def test_metrics_of_raw_scores(rows, tmp_path):
    """A library's own metric that would be computed from raw scores gives a warning.

    LightGBM adds its metric to ours, and xgboost.train uses rmse for early stopping by default.
    """
    x, y, _, _ = rows
    lgb = pytest.importorskip("lightgbm")
    focal = SigmoidFocal()
    model = lgb.LGBMClassifier(objective=focal, n_estimators=3, n_jobs=1, verbosity=-1)
    with pytest.warns(UserWarning, match=r"binary_logloss of the raw scores .*metric='None'"):
        model.fit(x, y, eval_X=x, eval_y=y, eval_metric=focal.lightgbm_metric)
    held = [lgb.Dataset(x, y, free_raw_data=False)]
    text = "LightGBM computes l2, rmse of the raw scores"
    with pytest.warns(UserWarning, match=text):
        trained("lightgbm", {"metric": "l2,auc,rmse"}, SigmoidFocal(), x, y, tmp_path,
                valid_sets=held)  # fmt: skip
    trained("lightgbm", {"metric": "auc"}, SigmoidFocal(), x, y, tmp_path, valid_sets=held)
    trained("lightgbm", {"metric": "l2"}, SigmoidFocal(), x, y, tmp_path)
    stop = {"early_stopping_rounds": 2}
    with pytest.warns(UserWarning, match=r"looks at rmse .*custom_metric= takes xgboost_metric"):
        trained("xgboost", {}, SigmoidFocal(), x, y, tmp_path, **stop)
    trained(
        "xgboost", {"eval_metric": ["logloss", "aucpr"]}, SigmoidFocal(), x, y, tmp_path, **stop
    )
    trained("xgboost", {}, focal, x, y, tmp_path, custom_metric=focal.xgboost_metric, **stop)
