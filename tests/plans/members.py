"""Layers with the fans that they have: `MEMBERS[name].make() -> (apply, params, inputs, kwargs)`."""

from __future__ import annotations

from tests.plans import framework_members, linen_members, odd_members, stack_members
from tests.plans.member import MEMBERS, Member

__all__ = ["MEMBERS", "Member", "framework_members", "linen_members", "odd_members", "stack_members"]
