"""Logistic regressions of scikit-learn on its digits, pixels of length 1 as f16: writes tests/golden/probe/: train.npy,
test.npy, {train,test}.digit and .parity (labels), results.txt: labels, C, accuracy on test, objective
C * sum(-ln p) + |w|^2 / 2; similar.txt: labels, and of each test row among the others precision@10, its
error, mAP and its error in float64.

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

with open(out + 'similar.txt', 'w') as f:
    rows = x[part['test']].astype(np.float64)
    scores = rows @ rows.T
    for kind, l in labels.items():
        y, found = l[part['test']], []
        for q in range(len(rows)):
            relevant = np.array([y[i] == y[q] for i in np.argsort(-scores[q], kind='stable') if i != q])
            shares = np.cumsum(relevant) / np.arange(1, len(relevant) + 1)
            found.append((relevant[:10].mean(), shares[relevant].mean()))
        mean, error = np.mean(found, 0), np.std(found, 0, ddof=1) / len(found) ** 0.5
        print(kind, f'{mean[0]:.7f} {error[0]:.7f} {mean[1]:.7f} {error[1]:.7f}', file=f)
