from contextlib import ExitStack

import pytest
from samserve.core.caller import Caller, acting_for
from samserve.core.errors import Overloaded
from samserve.core.holders import Holders

FULL = Overloaded("it")


def test_one_tenant_holds_its_share_at_most_and_all_together_all_places() -> None:
    holders = Holders(4, share=0.5)
    with ExitStack() as held:
        for tenant in ("a", "a", "b"):
            with acting_for(Caller(tenant, tenant)):
                held.enter_context(holders.hold(FULL))
        with acting_for(Caller("a", "a")), pytest.raises(Overloaded), holders.hold(FULL):
            pass
        with acting_for(Caller("c", "c")):
            held.enter_context(holders.hold(FULL))
        with acting_for(Caller("d", "d")), pytest.raises(Overloaded), holders.hold(FULL):
            pass
    assert not holders._held


def test_by_default_one_tenant_may_hold_all() -> None:
    holders = Holders(2)
    with holders.hold(FULL), holders.hold(FULL), pytest.raises(Overloaded), holders.hold(FULL):
        pass
    with pytest.raises(ValueError, match="x"), holders.hold(FULL):
        raise ValueError("x")
    assert not holders._held
