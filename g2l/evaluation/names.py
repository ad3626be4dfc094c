"""Every task and every source, so that YAML can name them by their class alone. None of these modules imports torch."""

from g2l.evaluation.tables.images_breast import Bach, BreakHis
from g2l.evaluation.tables.images_colon import Mhist, NctCrc
from g2l.evaluation.tables.images_lymph import PCam
from g2l.evaluation.tables.images_pathorob import PathoRob
from g2l.evaluation.tables.images_prostate import GleasonArvaniti
from g2l.evaluation.tables.listing import Listing
from g2l.evaluation.tables.regions import CohortRegions
from g2l.evaluation.tables.segmentation import MaskFolder
from g2l.evaluation.tables.segmentation_sets import CoNSeP, MoNuSAC, PanNuke, Tiger
from g2l.evaluation.tables.slides_camelyon16 import Camelyon16
from g2l.evaluation.tables.slides_panda import Panda
from g2l.evaluation.tables.slides_tcga import TcgaSubtyping, TcgaSurvival
from g2l.evaluation.tasks.classification import PatchClassification
from g2l.evaluation.tasks.retrieval import Retrieval
from g2l.evaluation.tasks.robustness import PerformanceDrop, Robustness
from g2l.evaluation.tasks.segmentation import Segmentation
from g2l.evaluation.tasks.similarity import Similarity
from g2l.evaluation.tasks.slides import SlideClassification
from g2l.evaluation.tasks.survival import Survival

TASKS = (
    PatchClassification, PerformanceDrop, Retrieval, Robustness, Segmentation, Similarity, SlideClassification,
    Survival,
)  # fmt: skip
SOURCES = (
    Bach, BreakHis, Camelyon16, CohortRegions, CoNSeP, GleasonArvaniti, Listing, MaskFolder, Mhist, MoNuSAC, NctCrc,
    Panda, PanNuke, PathoRob, PCam, TcgaSubtyping, TcgaSurvival, Tiger,
)  # fmt: skip
