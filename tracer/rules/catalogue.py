"""The rules that there are, by set. The list is the order in which they are asked and shown."""

from __future__ import annotations

from typing import Any

from tracer.errors import UsageError
from tracer.rules.evidence.auth_failure import AuthFailure
from tracer.rules.evidence.churn import Churn
from tracer.rules.evidence.idle_close import IdleClose
from tracer.rules.evidence.mirror_failure import MirrorFailure
from tracer.rules.evidence.rate_limit import RateLimit
from tracer.rules.evidence.recovered import Recovered
from tracer.rules.evidence.refused import Refused
from tracer.rules.evidence.reset import Reset
from tracer.rules.evidence.retry_storm import RetryStorm
from tracer.rules.evidence.slow_consumer import SlowConsumer
from tracer.rules.evidence.stalled import Stalled
from tracer.rules.evidence.token_aging import TokenAging
from tracer.rules.evidence.token_expiry import TokenExpiry
from tracer.rules.evidence.unreachable import Unreachable
from tracer.rules.rule import Rule
from tracer.rules.textbook.auth_failure import TextbookAuthFailure
from tracer.rules.textbook.capacity import Capacity
from tracer.rules.textbook.churn import TextbookChurn
from tracer.rules.textbook.mirror_failure import TextbookMirrorFailure
from tracer.rules.textbook.rate_limit import TextbookRateLimit
from tracer.rules.textbook.recovered import TextbookRecovered
from tracer.rules.textbook.refused import TextbookRefused
from tracer.rules.textbook.retry_storm import Budget
from tracer.rules.textbook.short_lives import ShortLives
from tracer.rules.textbook.token_aging import TextbookTokenAging
from tracer.rules.textbook.token_expiry import TextbookTokenExpiry
from tracer.rules.textbook.unreachable import TextbookUnreachable

RuleClass = type[Rule[Any]]

EVIDENCE: tuple[RuleClass, ...] = (
    MirrorFailure, RateLimit, RetryStorm, AuthFailure, TokenExpiry, Unreachable, Refused, Reset, Stalled, SlowConsumer, Churn,
    IdleClose, TokenAging, Recovered,
)  # fmt: skip
"""`recovered` is asked last: it looks at what the others declared over."""
TEXTBOOK: tuple[RuleClass, ...] = (
    TextbookRateLimit, ShortLives, TextbookChurn, Budget, TextbookTokenAging, TextbookTokenExpiry, TextbookAuthFailure,
    TextbookUnreachable, TextbookRefused, Capacity, TextbookMirrorFailure, TextbookRecovered,
)  # fmt: skip
SETS: dict[str, tuple[RuleClass, ...]] = {"evidence": EVIDENCE, "textbook": TEXTBOOK, "all": (*EVIDENCE, *TEXTBOOK)}
BY_ID: dict[str, RuleClass] = {rule.id: rule for rule in SETS["all"]}


def find_rule(text: str) -> RuleClass:
    """A rule by its id, in any case.

    Raises:
        UsageError: there is none.
    """
    found = BY_ID.get(text.lower())
    if found is None:
        raise UsageError(f"there is no rule {text!r}; 'regtrace rules' lists them")
    return found
