"""Weight initialization and signal propagation for JAX and Flax."""

from __future__ import annotations

from jinit.flax import functional as functional
from jinit.initializers._statistics import Check as Check
from jinit.initializers.check import CheckReport as CheckReport
from jinit.initializers.check import check_initializer as check_initializer
from jinit.initializers.constants import constant as constant
from jinit.initializers.constants import ones as ones
from jinit.initializers.constants import ones_init as ones_init
from jinit.initializers.constants import zeros as zeros
from jinit.initializers.constants import zeros_init as zeros_init
from jinit.initializers.distributions import normal as normal
from jinit.initializers.distributions import truncated_normal as truncated_normal
from jinit.initializers.distributions import uniform as uniform
from jinit.initializers.fans import compute_fans as compute_fans
from jinit.initializers.gains import for_activation as for_activation
from jinit.initializers.gains import gain as gain
from jinit.initializers.lecun_glorot_he import glorot_normal as glorot_normal
from jinit.initializers.lecun_glorot_he import glorot_uniform as glorot_uniform
from jinit.initializers.lecun_glorot_he import he_normal as he_normal
from jinit.initializers.lecun_glorot_he import he_uniform as he_uniform
from jinit.initializers.lecun_glorot_he import kaiming_normal as kaiming_normal
from jinit.initializers.lecun_glorot_he import kaiming_uniform as kaiming_uniform
from jinit.initializers.lecun_glorot_he import lecun_normal as lecun_normal
from jinit.initializers.lecun_glorot_he import lecun_uniform as lecun_uniform
from jinit.initializers.lecun_glorot_he import xavier_normal as xavier_normal
from jinit.initializers.lecun_glorot_he import xavier_uniform as xavier_uniform
from jinit.initializers.orthogonal import delta_orthogonal as delta_orthogonal
from jinit.initializers.orthogonal import orthogonal as orthogonal
from jinit.initializers.positive import positive as positive
from jinit.initializers.structured import dirac as dirac
from jinit.initializers.structured import identity as identity
from jinit.initializers.structured import sparse as sparse
from jinit.initializers.variance_scaling import fan_in_uniform as fan_in_uniform
from jinit.initializers.variance_scaling import variance_scaling as variance_scaling
from jinit.report.finding import Finding as Finding
from jinit.report.report import Report as Report
from jinit.report.report import diagnose as diagnose
from jinit.report.thresholds import Thresholds as Thresholds
from jinit.signals.measure import measure as measure
from jinit.signals.moments import Moments as Moments
from jinit.signals.predict import predict as predict
from jinit.signals.records import Record as Record
from jinit.signals.records import Records as Records
