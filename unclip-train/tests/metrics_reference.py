"""The numbers that the tests of `src/metrics` expect, by NumPy, SciPy, scikit-learn and scikit-image.

Run with: python tests/metrics_reference.py
"""

import numpy as np
from scipy.spatial.distance import cdist
from skimage.metrics import peak_signal_noise_ratio
from sklearn.metrics.pairwise import cosine_similarity, polynomial_kernel, rbf_kernel
from sklearn.preprocessing import normalize


def waves(rows, width, shift):
    row, column = np.arange(rows)[:, None], np.arange(width)[None]
    values = np.sin(1.7 * row + 0.9 * column + 0.31 * row * column + shift)
    return values.astype(np.float32).astype(np.float64)


def made_pictures():
    values = waves(31, 8, 1.0).astype(np.float32)
    return (values * values).astype(np.float64)


def recall():
    cosines = cosine_similarity(waves(30, 8, 0.0), waves(30, 8, 1.1))
    rank = (cosines >= np.diag(cosines)[:, None]).sum(1)
    return {"at_1": (rank <= 1).mean(), "at_5": (rank <= 5).mean(), "at_10": (rank <= 10).mean(), "mean_rank": rank.mean()}


def prior():
    predicted, images, texts = (waves(12, 6, s) for s in (0.1, 0.0, 0.9))
    group = np.arange(12) // 2
    cosines = cosine_similarity(predicted, texts)
    return {
        "to_image": np.diag(cosine_similarity(predicted, images)).mean(),
        "to_text": np.diag(cosines).mean(),
        "data_to_text": np.diag(cosine_similarity(images, texts)).mean(),
        "to_unrelated": cosines[group[:, None] != group[None]].mean(),
    }


def kid():
    real, made = waves(40, 8, 0.0), made_pictures()
    kernel = lambda a, b: polynomial_kernel(a, b, degree=3, gamma=1 / a.shape[1], coef0=1)
    within = lambda a: (kernel(a, a).sum() - np.trace(kernel(a, a))) / (len(a) * (len(a) - 1))
    return within(real) + within(made) - 2 * kernel(real, made).mean()


def cmmd(sigma):
    real, made = normalize(waves(40, 8, 0.0)), normalize(made_pictures())
    kernel = lambda a, b: rbf_kernel(a, b, gamma=1 / (2 * sigma**2)).mean()
    return 1000 * (kernel(real, real) + kernel(made, made) - 2 * kernel(real, made))


def clip_score():
    return 100 * np.diag(cosine_similarity(waves(30, 8, 0.0), waves(30, 8, 0.4))).mean()


def memorised():
    distances = cdist(waves(300, 6, 0.3), waves(50, 6, 0.0))
    order = np.argsort(distances, 1)[:, :2]
    first, second = np.take_along_axis(distances, order, 1).T
    rows = {row: (order[row, 0], first[row], second[row]) for row in (0, 1, 150, 299)}
    return (first < second / 3).mean(), rows


def psnr():
    y, x = np.mgrid[:7, :9]
    truth = np.stack([20 * x, 30 * y, 10 * (x + y)], -1).astype(np.uint8)
    picture = truth + ((x * y) % 5).astype(np.uint8)[..., None]
    return peak_signal_noise_ratio(truth, picture)


for function in (recall, prior, kid, clip_score, memorised, psnr):
    print(function.__name__, function())
print("cmmd", cmmd(10.0), cmmd(0.5))
