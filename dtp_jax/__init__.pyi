from . import blocks, data, feedback, metrics, networks, ops, optim, rules
from .blocks import Activations, Block, Network, chain, conv_block, dense_block, forward_all
from .learning.learner import Learner, Metrics, Record, TrainState, init, step, train_step
from .learning.metrics import Alignment
from .networks import lenet, meulemans, mlp, resnet18, resnet34, simple_vgg
from .rules import (
    Rule,
    analytic,
    backprop,
    direct_feedback_alignment,
    drl,
    dtp,
    feedback_alignment,
    fw_dtp,
    ldrl,
    tp,
)
from .run.backend import prepare
from .run.notebook import evaluate, train, train_seeds
from .run.results import load_run
from .run.trackers import Tracker, trackers
