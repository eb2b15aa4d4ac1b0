"""The laws that the documentation states, one property a statement, in float64 unless a test says otherwise.

`docs/theory` links to these tests by name. A symbol means what it means there: r_c = q(c | x_t) is the class
posterior, e*_c the true conditional prediction, e_c the optimum, λ = τ·w(t), π the target law, ē_r = Σ r_c e_c and
ē_π = Σ π_c e_c.
"""
