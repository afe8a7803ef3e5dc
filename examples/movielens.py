"""A film recommender from a file of ratings: biases and factors, held-out error, ten suggestions.

    python examples/movielens.py ratings.csv --rank 20 --reg 5 --user 1

The file is one of MovieLens (https://grouplens.org/datasets/movielens): `ratings.csv`,
`ratings.dat` or `u.data`; each line is a user, a film, a rating and a time, between commas, double
colons or tabs.
"""

import argparse

import numpy as np
import scipy.sparse as sp

import lowla


def read_ratings(path):
    """User and film numbers and the ratings of a MovieLens file."""
    with open(path, encoding="utf-8") as file:
        lines = file.read().replace("::", ",").replace("\t", ",").splitlines()
    table = np.loadtxt(
        lines[not lines[0][0].isdigit() :], delimiter=",", usecols=(0, 1, 2), ndmin=2
    )
    return table[:, 0].astype(int), table[:, 1].astype(int), table[:, 2]


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file")
    parser.add_argument("--rank", type=int, default=20)
    parser.add_argument("--reg", type=float, default=5.0)
    parser.add_argument("--user", type=int, help="the number of a user in the file")
    options = parser.parse_args(arguments)

    users, films, ratings = read_ratings(options.file)
    user_numbers, i = np.unique(users, return_inverse=True)
    film_numbers, j = np.unique(films, return_inverse=True)
    M = sp.coo_array((ratings, (i, j)), shape=(len(user_numbers), len(film_numbers)))
    print(f"{len(user_numbers)} users, {len(film_numbers)} films, {len(ratings)} ratings")

    r = lowla.complete(
        M, options.rank, bias=True, reg=options.reg, holdout=0.1, tol=1e-3, n_iter=100, rng=0
    )
    print(f"rank {options.rank}, {r.info.sweeps} sweeps: RMSE {r.info.rmse:.4f}, ", end="")
    print(f"held-out RMSE {r.info.holdout_rmse:.4f}")

    user = user_numbers[0] if options.user is None else options.user
    row = int(np.searchsorted(user_numbers, user))
    if row == len(user_numbers) or user_numbers[row] != user:
        raise SystemExit(f"there is no user {user} in the file")
    rated = j[i == row]
    print(f"for user {user}, not rated by them:")
    for film, score in zip(*r.top(row, 10 + len(rated)), strict=True):
        if film not in rated:
            print(f"  film {film_numbers[film]}  {score:.2f}")


if __name__ == "__main__":
    main()
