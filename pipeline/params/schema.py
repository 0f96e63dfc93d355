"""The whole of ``params.yaml``."""

from pydantic import Field

from pipeline.params.augment import AugmentParams
from pipeline.params.base import Section
from pipeline.params.data import DataParams
from pipeline.params.evaluate import EvaluateParams
from pipeline.params.learning_rates import LearningRatesParams
from pipeline.params.model import ModelParams
from pipeline.params.predict import PredictParams
from pipeline.params.train import TrainParams
from pipeline.params.tsne import TsneParams


class Params(Section):
    """Every parameter of a run."""

    seed: int = Field(ge=0, lt=2**32, description="random seed of the views, the initial weights and the batches")
    data: DataParams
    augment: AugmentParams
    model: ModelParams
    train: TrainParams
    evaluate: EvaluateParams
    tsne: TsneParams
    predict: PredictParams
    learning_rates: LearningRatesParams
