"""Logistic regressions of scikit-learn on its digits, pixels of length 1 as f16: writes tests/golden/probe/: train.npy,
test.npy, {train,test}.digit and .parity (labels), results.txt: labels, C, accuracy on test, objective
C * sum(-ln p) + |w|^2 / 2.

Run: python tests/golden/make_probe.py (needs numpy and scikit-learn)."""
import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

out = 'tests/golden/probe/'
x, digit = load_digits(return_X_y=True)
x = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float16)
order = np.random.default_rng(6).permutation(len(x))
part = {'train': order[:400], 'test': order[400:700]}
labels = {'digit': np.array([f'digit {d}' for d in digit]), 'parity': np.where(digit % 2, 'odd', 'even')}
for name, rows in part.items():
    np.save(out + name + '.npy', x[rows])
    for kind, l in labels.items():
        np.savetxt(out + f'{name}.{kind}', l[rows], fmt='%s')
with open(out + 'results.txt', 'w') as f:
    for kind, l in labels.items():
        train, test = (x[part[n]].astype(np.float64) for n in ('train', 'test'))
        y = l[part['train']]
        for C in 0.01, 1.0, 100.0, 10000.0:
            m = LogisticRegression(C=C, tol=1e-10, max_iter=100000).fit(train, y)
            p = m.predict_proba(train)[np.arange(len(y)), np.searchsorted(m.classes_, y)]
            objective = C * -np.log(p).sum() + 0.5 * (m.coef_ ** 2).sum()
            print(kind, f'{C:g}', f"{m.score(test, l[part['test']]):.6f}", f'{objective:.8g}', file=f)
