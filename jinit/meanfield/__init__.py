"""Mean-field theory of plain deep networks: what signals and gradients do in the limit of great width.

Pre-activations of second moment q, weights of mean zero and variance σ_w² / fan_in, biases of variance σ_b²,
no normalisation and no skip connections.
"""

from __future__ import annotations

from jinit.meanfield.architecture import maximal_c_map as maximal_c_map
from jinit.meanfield.critical import CriticalLine as CriticalLine
from jinit.meanfield.critical import critical_line as critical_line
from jinit.meanfield.critical import critical_weight_variance as critical_weight_variance
from jinit.meanfield.diagram import PhaseDiagram as PhaseDiagram
from jinit.meanfield.diagram import phase_diagram as phase_diagram
from jinit.meanfield.fixed import FixedPoint as FixedPoint
from jinit.meanfield.fixed import fixed_point as fixed_point
from jinit.meanfield.fixed import fixed_points as fixed_points
from jinit.meanfield.maps import Trajectory as Trajectory
from jinit.meanfield.maps import correlation_map as correlation_map
from jinit.meanfield.maps import trajectory as trajectory
from jinit.meanfield.maps import variance_map as variance_map
from jinit.meanfield.shaping import ShapedActivation as ShapedActivation
from jinit.meanfield.shaping import dks as dks
from jinit.meanfield.shaping import tat as tat
from jinit.meanfield.shaping import tat_leaky_relu as tat_leaky_relu
from jinit.meanfield.subnetworks import MaximalCMap as MaximalCMap
