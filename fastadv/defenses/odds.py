"""A detector of adversarial samples: noise moves their logits further than those of clean ones."""

import math
import warnings
from collections.abc import Callable, Iterable
from os import PathLike
from typing import Any, Literal, NamedTuple, Self

import torch
from torch import Tensor, nn

from fastadv import ops
from fastadv._checks import Bounds
from fastadv.attacks.attack import Problem, forward, pose, undisturbed

from . import odds_file
from .odds_correction import Attack, Correction, attack_samples, correct, fit_corrections
from .odds_gaps import Batch, Gaps, Noise, check_settings, checked, content_ids, measure
from .odds_statistics import LEAST, GapStatistics, Spread, held_out_cutoff, normal_cutoff

FIRST_CUTOFF = normal_cutoff(0.001, 1)
"""The 99.9% quantile of the normal distribution."""

# Version counters and autograd are needed, and what is learnt is used outside of inference mode as well.
outside_inference_mode = torch.inference_mode(False)


class Examination(NamedTuple):
    """What the detector says about samples.

    Attributes:
        logits: [B, K] float, the model's.
        predicted: [B] int64, the model's answer.
        score: [B] float64: the largest z-score; -inf where nothing is known of the predicted class, inf where
            a logit is not finite.
        towards: [B] int64: the class with that z-score, to which noise moves the sample.
        flagged: [B] bool: the score is above the cutoff.
        label: [B] int64: the model's answer, corrected where flagged if there is a correction.
    """

    logits: Tensor
    predicted: Tensor
    score: Tensor
    towards: Tensor
    flagged: Tensor
    label: Tensor


class OddsAreOdd(nn.Module):
    """The statistical test for adversarial samples of a given model, and their correction.

    Roth, Kilcher, Hofmann, "The odds are odd: a statistical test for detecting adversarial examples" (ICML
    2019); the survey's section 6. `draws` noisy copies of a sample say how far noise moves the gap between
    the logits of the predicted class t and of every other class i, on average: g_i. On clean samples of the
    same predicted class g_i has mean mu_ti and standard deviation sigma_ti. The score is the maximum over
    i != t of z_i = (g_i - mu_ti) / sigma_ti, averaged over kinds of noise first, and a sample is flagged if
    it is above the cutoff.

        detector = OddsAreOdd(model, noise=[("normal", 0.1)])
        detector.fit(training)                  # mu and sigma
        detector.calibrate(held_out, fpr=0.01)  # the cutoff
        flagged = detector.detect(x)

    Called as a module it is the model: logits for x, differentiable. The model is asked in eval mode and left
    as it was. The statistics are not part of `state_dict`: `save` and `load` keep them, without the model.
    They stay float64 where the module is cast, and move with it.

    The noise of a sample is a function of the seed, its content (or the id it is given) and the draw: scores
    do not depend on chunks, threads or batch mates, bit for bit, if the model's logits do not. (Convolutions
    and products of matrices may well round otherwise in another batch; that is as small as it sounds.) An
    attacker who knows the seed knows the noise: `seed` may be changed at any time. Several threads may ask at
    once if the module is in eval mode; from train mode the first to end would put it back while others still
    run.

    Args:
        model: [B, ...] -> logits [B, K].
        noise: kinds and scales, each as in `fastadv.ops.add_noise`: "normal", "uniform" or "sign", and the
            scale in the units of x. Each kind takes `draws` copies.
        draws: copies of a sample for each kind of noise, 1 .. 2^20.
        chunk: at most so many noisy copies in one forward (but never less than one of each sample); memory
            goes with it and not with `draws`. None is all. Rows and not draws, because whoever serves samples
            does not choose how many come together.
        bounds: (lower, upper) of every element of x, to which noisy copies are clamped; None: not clamped.
        two_sided: score by |z_i|: noise that moves a sample less than usual is odd as well.
        autocast: run the model, and nothing else, under torch.autocast with this dtype.
        seed: of the noise, in [0, 2^63).

    Attributes:
        cutoff: what a score must exceed to be flagged; at first, and after every `fit`, the normal
            distribution's 99.9% quantile, 3.09, as in the authors' code. May be set to any number.
        counts: [K] int64, how many samples of each predicted class the statistics are of.
        mean, std: [kinds, K, K] float64, mu and sigma by kind, predicted class and class; NaN in std where
            nothing is known. All three are empty before `fit`.
        held_out: [N] float64, the scores that `calibrate` found.

    Raises:
        TypeError: model is not a module, or a number is none.
        ValueError: an argument is out of range.
    """

    model: nn.Module
    noise: Noise
    draws: int
    chunk: int | None
    bounds: Bounds
    two_sided: bool
    autocast: torch.dtype | None
    seed: int
    corrections: dict[int, Correction]
    input_shape: tuple[int, ...]
    counts: Tensor
    mean: Tensor
    std: Tensor
    held_out: Tensor
    _cutoff: float

    def __init__(
        self,
        model: nn.Module,
        noise: Noise = (("normal", 0.03),),
        draws: int = 256,
        *,
        chunk: int | None = 256,
        bounds: Bounds = (0.0, 1.0),
        two_sided: bool = False,
        autocast: torch.dtype | None = None,
        seed: int = 0,
    ) -> None:
        """A detector that knows nothing yet: see `fit`."""
        super().__init__()
        if not isinstance(model, nn.Module):
            raise TypeError(f"OddsAreOdd: model must be a torch.nn.Module, got {type(model).__name__}")
        check_settings(noise, draws, chunk, bounds, two_sided, autocast, seed)
        self.model = model
        self.noise = tuple((kind, float(scale)) for kind, scale in noise)
        self.draws = int(draws)
        self.chunk = None if chunk is None else int(chunk)
        self.bounds = None if bounds is None else (float(bounds[0]), float(bounds[1]))
        self.two_sided = two_sided
        self.autocast = autocast
        self.seed = int(seed)
        self.cutoff = FIRST_CUTOFF
        self.corrections = {}
        self.input_shape = ()
        for name in ("mean", "std"):
            self.register_buffer(name, torch.empty(len(noise), 0, 0, dtype=torch.float64), persistent=False)
        self.register_buffer("counts", torch.empty(0, dtype=torch.int64), persistent=False)
        self.register_buffer("held_out", torch.empty(0, dtype=torch.float64), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, ...] -> the model's logits [B, K]."""
        logits: Tensor = self.model(x)
        return logits

    @property
    def cutoff(self) -> float:
        """What a score must exceed to be flagged; setting it to NaN raises ValueError."""
        return self._cutoff

    @cutoff.setter
    def cutoff(self, value: float) -> None:
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if math.isnan(number):
            raise ValueError(f"OddsAreOdd: cutoff must be a number, got {value!r}")
        self._cutoff = number

    @property
    def classes(self) -> int:
        """K, the number of classes; 0 before `fit`."""
        return len(self.counts)

    @property
    def unknown(self) -> list[int]:
        """The classes of which `fit` saw fewer than 3 samples, or samples whose gaps never varied.

        What is predicted so is never flagged, unless a logit of it or of a noisy copy is not finite.
        """
        return self.std.isnan().any(0).all(1).nonzero().flatten().tolist()

    @outside_inference_mode
    def gaps(self, x: Tensor, ids: Tensor | None = None) -> Gaps:
        """How noise moves the samples' logits; arguments and errors as of `examine`, but needs no `fit`."""
        return self._measured(self._posed(x, ids))

    @outside_inference_mode
    def fit(
        self,
        loader: Iterable[Batch],
        *,
        std: Spread = "examples",
        correct_only: bool = False,
        quiet: bool = False,
    ) -> list[int]:
        """Learn mu and sigma from clean samples, in one pass; nothing of a sample is kept.

        Held-out scores and corrections are forgotten, and the cutoff is the first one again: they were made
        for the statistics of before.

        Args:
            loader: batches x or (x, y, ...): x [B, ...], y [B] int64 labels.
            std: "examples": the standard deviation of the samples' means over draws, as in the authors' code,
                or "joint": of single draws of all samples. With "joint" sigma is larger and z-scores are
                small: the normal quantile then is no guide, `calibrate` is.
            correct_only: leave out samples that the model gets wrong; needs labels. The authors' code does so
                (and leaves out those that an attack does not flip) unless only detection is asked for.
            quiet: show no progress bar.

        Returns:
            `unknown`; a warning names them. They never flag, but for samples with logits that are not finite.

        Raises:
            TypeError, ValueError: samples that `examine` would refuse, a batch without labels where they are
                needed, logits that are not finite, or no samples at all; the detector is then left as it was.
        """
        if std not in ("examples", "joint"):
            raise ValueError(f"OddsAreOdd.fit: std must be 'examples' or 'joint', got {std!r}")
        statistics, device, input_shape = None, torch.device("cpu"), self.input_shape
        for problem in checked("OddsAreOdd.fit", loader, correct_only, self.bounds, quiet):
            gaps = self._measured(problem)
            device, classes = problem.x.device, gaps.logits.shape[1]
            if not gaps.finite.all():
                raise ValueError("OddsAreOdd.fit: the model returned NaN or infinite logits")
            statistics = statistics or GapStatistics(len(self.noise), classes)
            if classes != len(statistics.counts):
                raise ValueError(
                    f"OddsAreOdd.fit: the model returned {len(statistics.counts)} logits, then {classes}"
                )
            counted = gaps.predicted == problem.y if correct_only else slice(None)
            statistics.add(
                gaps.predicted[counted],
                gaps.logits[counted],
                gaps.mean[:, counted],
                gaps.variance[:, counted],
            )
            input_shape = tuple(problem.x.shape[1:])
        if statistics is None or not statistics.counts.any():
            raise ValueError("OddsAreOdd.fit: loader must have samples that count, got none")
        self.counts = statistics.counts.to(device)
        self.mean, self.std = statistics.mean.to(device), statistics.std(std).to(device)
        self.held_out, self.corrections = self.held_out[:0], {}
        self.cutoff, self.input_shape = FIRST_CUTOFF, input_shape
        if self.unknown:
            names = ", ".join(map(str, self.unknown))
            warnings.warn(
                f"OddsAreOdd.fit: fewer than {LEAST} samples, or none that noise moves differently, were "
                f"predicted as {names}: these never flag",
                stacklevel=3,  # the decorator is one
            )
        return self.unknown

    @outside_inference_mode
    def calibrate(self, loader: Iterable[Batch], *, fpr: float = 0.01, quiet: bool = False) -> float:
        """Score clean samples that `fit` has not seen, keep the scores, and set the cutoff by them.

        Args:
            loader: as in `fit`; labels are not looked at.
            fpr: the part of clean samples that may be flagged, in (0, 1).
            quiet: show no progress bar.

        Returns:
            The new cutoff, `threshold(fpr)`.

        Raises:
            TypeError, ValueError: as `examine`, too few samples for such an fpr, or a cutoff that would not
                be finite, as where most samples are of unknown classes; the detector is then left as it was.
        """
        self._check_fitted("calibrate")
        problems = checked("OddsAreOdd.calibrate", loader, False, self.bounds, quiet)
        scores = [self._examined(problem).score for problem in problems]
        held_out = torch.cat(scores) if scores else self.held_out[:0]
        cutoff = held_out_cutoff(held_out, fpr)
        self.held_out, self.cutoff = held_out, cutoff
        return cutoff

    def threshold(self, fpr: float, *, source: Literal["held_out", "normal"] = "held_out") -> float:
        """The cutoff that a clean sample's score exceeds with a probability of at most fpr.

        "held_out" is an order statistic of `calibrate`'s scores, the ceil((n + 1)(1 - fpr))-th of n: the
        promise holds for whatever distribution, on average over calibrations, if clean samples to come are
        like those. "normal" is the quantile of 1 - fpr / (K - 1): the promise holds if the z-scores of clean
        samples are standard normal, by Bonferroni over the K - 1 classes (twice as many if two-sided). The
        0.999 of the authors' code is an fpr of 0.009 for 10 classes.

        Args:
            fpr: the part of clean samples that may be flagged, in (0, 1).
            source: one of these.

        Raises:
            ValueError: fpr is out of range or too small for the number of held-out scores; there are none, or
                the one wanted is not finite; or for "normal" there are no statistics.
        """
        if source == "held_out":
            return held_out_cutoff(self.held_out, fpr)
        if source != "normal":
            raise ValueError(f"OddsAreOdd.threshold: source must be 'held_out' or 'normal', got {source!r}")
        self._check_fitted("threshold")
        return normal_cutoff(fpr, (self.classes - 1) * (2 if self.two_sided else 1))

    def pair_thresholds(self) -> Tensor:
        """[kinds, K, K] float64: tau_ti = mu_ti + sigma_ti * cutoff, the thresholds that the survey has.

        With one kind of noise, one-sided, a sample is flagged iff some g_i - tau_ti > 0, which is the same as
        z_i > cutoff. With several kinds it is flagged iff the mean of (g_i - tau_ti) / sigma_ti is positive.
        NaN where nothing is known.
        """
        self._check_fitted("pair_thresholds")
        return self.mean + self.std * self.cutoff

    @outside_inference_mode
    def fit_correction(self, loader: Iterable[Batch], attack: Attack, *, quiet: bool = False) -> None:
        """Learn the true class of attacked samples from what the model says and from where noise moves them.

        A multinomial logistic regression for each predicted class, on the mean gaps of all kinds of noise, of
        the samples that the attack flips. So a clean sample that is flagged by mistake gets another class.

        Args:
            loader: batches (x, y): x [B, ...] clean samples, y [B] int64 their true classes.
            attack: (model, x, y) -> x_adv like x, such as `PGD(eps=0.1)`. It meets the model in eval mode.
            quiet: show no progress bar.

        Raises:
            TypeError, ValueError: as `examine`, for what the attack returns too; a batch without labels, or
                with labels that are no classes; or no sample that the attack flips.
        """
        self._check_fitted("fit_correction")
        features, predicted, labels = [], [], []
        for problem in checked("OddsAreOdd.fit_correction", loader, True, self.bounds, quiet):
            attacked, y = attack_samples(self.model, problem, attack, self.classes, self.bounds)
            gaps = self._measured(attacked)
            kept = (gaps.predicted != y) & gaps.finite
            features.append(gaps.features[kept].cpu())
            predicted.append(gaps.predicted[kept].cpu())
            labels.append(y[kept].cpu())
        if sum(map(len, labels)) == 0:
            raise ValueError("OddsAreOdd.fit_correction: the attack flips no sample: nothing can be learnt")
        self.corrections = fit_corrections(torch.cat(features), torch.cat(predicted), torch.cat(labels))

    @outside_inference_mode
    def examine(self, x: Tensor, ids: Tensor | None = None) -> Examination:
        """Everything about samples at once, for the price of kinds * draws + 1 forwards.

        Args:
            x: [B, ...] floating point, finite, within bounds.
            ids: [B] int64: which noise each sample gets. The default is a hash of its content: a sample has
                the same score wherever it is met, and samples have noise of their own, also where each comes
                alone. Samples that share an id share their noise, and how it happens to err; cutoffs then
                promise nothing for the seed at hand.

        Raises:
            TypeError: wrong dtypes.
            ValueError: wrong shapes or devices; x not finite or outside bounds; model output that is not
                [B, K], with the K that `fit` saw; no `fit` yet.
        """
        return self._examined(self._posed(x, ids))

    def judge(self, gaps: Gaps) -> Examination:
        """What `examine` says about samples whose gaps are measured: for another cutoff, say.

        Args:
            gaps: as `gaps` returns them.

        Raises:
            ValueError: they are of another number of classes than `fit` saw; no `fit` yet.
        """
        self._check_fitted("judge")
        logits, predicted = gaps.logits, gaps.predicted
        if logits.shape[1] != self.classes:
            raise ValueError(
                f"OddsAreOdd: model must return logits [{len(logits)}, {self.classes}] as in fit, "
                f"got {list(logits.shape)}"
            )
        score, towards = ops.odds_score(gaps.mean, predicted, self.mean, self.std, two_sided=self.two_sided)
        # No clean sample does this, and as a z-score NaN would count for nothing.
        score = score.masked_fill(~gaps.finite, math.inf)
        flagged = score > self.cutoff
        label = predicted.clone()
        if self.corrections and flagged.any():
            label[flagged] = correct(self.corrections, gaps.features[flagged], predicted[flagged])
        return Examination(logits, predicted, score, towards, flagged, label)

    def score(self, x: Tensor, ids: Tensor | None = None) -> Tensor:
        """[B] float64: how odd each sample is; see `examine`."""
        return self.examine(x, ids).score

    def detect(self, x: Tensor, ids: Tensor | None = None) -> Tensor:
        """[B] bool: which samples are flagged as adversarial; see `examine`."""
        return self.examine(x, ids).flagged

    def predict(self, x: Tensor, ids: Tensor | None = None) -> Tensor:
        """[B] int64: the model's answers, corrected where flagged; see `examine` and `fit_correction`."""
        return self.examine(x, ids).label

    def save(self, path: str | PathLike[str]) -> None:
        """Write settings, statistics, held-out scores and corrections to a safetensors file.

        The file is written whole or not at all.

        Raises:
            ValueError: there is nothing to save before `fit`.
            OSError: the file cannot be written.
        """
        self._check_fitted("save")
        odds_file.save(self, path)

    @classmethod
    @outside_inference_mode
    def load(cls, path: str | PathLike[str], model: nn.Module, **changes: Any) -> Self:
        """The detector that `save` wrote, around a model and on its device.

        The model is asked about one grey sample, to see that it takes such samples and has so many classes.

        Args:
            path: the file.
            model: the model that the detector was made for; whether it is that very one cannot be seen.
            changes: chunk, autocast or seed in place of the file's. All else goes with the statistics: fit
                another detector.

        Raises:
            OSError: the file cannot be read.
            ValueError: it is broken or of another version, or was made for another number of classes or shape
                of samples than the model's; one line that names it.
            TypeError: the model is not a module, or something else is to be changed.
        """
        return odds_file.load(cls, path, model, changes)

    def _posed(self, x: Tensor, ids: Tensor | None) -> Problem:
        """Samples that were checked, with numbers for their noise."""
        problem = pose("OddsAreOdd", x, None, None, ids, self.bounds)
        if ids is None:
            problem.ids = content_ids(problem.x)
        return problem

    def _measured(self, problem: Problem) -> Gaps:
        """How noise moves the logits of a batch."""
        run = forward("OddsAreOdd", self.model, self.autocast)
        with undisturbed(self), torch.no_grad():
            return measure(run, problem, self.noise, self.draws, self.chunk, self.bounds, self.seed)

    def _examined(self, problem: Problem) -> Examination:
        self._check_fitted("examine")
        return self.judge(self._measured(problem))

    def _check_fitted(self, method: str) -> None:
        if self.classes == 0:
            raise ValueError(f"OddsAreOdd.{method}: the detector knows no clean samples yet: call fit first")

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Statistics move to other devices, but stay what they are when the model is cast to a dtype."""
        kept = {name: getattr(self, name) for name in ("mean", "std", "held_out")}
        nn.Module._apply(self, fn, recurse)
        for name, value in kept.items():
            setattr(self, name, value.to(getattr(self, name).device))
        return self

    def extra_repr(self) -> str:
        """The settings, for `print(detector)`."""
        return f"noise={self.noise}, draws={self.draws}, classes={self.classes}, cutoff={self.cutoff:.3g}"
