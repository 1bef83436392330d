"""The loop of `storage.images.latent_search`, compiled: each move depends on those before it."""

from __future__ import annotations

import numpy as np

from skyfold.compiled import compiled

_MOVES = 6  # of a block in one round


@compiled
def move_latents(  # type: ignore[no-untyped-def]
    latents,
    errors,
    root,
    sky,
    answers,
    squares,
    bits,
    blocks,
    lmbda,
    pixel_weight,
    worth,
    weight_of_sky,
    saved,
):
    """Move the latents of some blocks, and the weighed errors with them; bits saved, by tile.

    The loss of errors is a sum of squares: of pixels, and of windows of 2, 4 and 8 pixels at half
    their side. A move changes it by twice the product of its answer and the slope of the loss at
    each pixel, and by the square of the answer: `squares`, where all pixels weigh 1.
    """
    channels, total = answers.shape[0], errors.shape[1]
    region = np.zeros((16, 16), np.float32)  # the block is its middle
    slope = np.zeros((8, 8), np.float32)
    parts = np.zeros((10, 10), np.float32)
    sums = np.zeros((9, 9), np.float32)
    for n in range(blocks.shape[0]):
        tile, row, column = blocks[n]
        y0, x0 = 8 * row, 8 * column
        top, left = max(4 - y0, 0), max(4 - x0, 0)
        bottom, right = min(total + 4 - y0, 16), min(total + 4 - x0, 16)
        for _ in range(_MOVES):
            region[:] = 0
            for i in range(top, bottom):
                for j in range(left, right):
                    region[i, j] = errors[tile, y0 + i - 4, x0 + j - 4]
            for i in range(8):
                for j in range(8):
                    slope[i, j] = pixel_weight * region[4 + i, 4 + j]
            for half in (1, 2, 4):
                count = 8 // half + 1  # windows that touch the block, along a side
                for i in range(count + 1):
                    for j in range(count + 1):
                        part = np.float32(0)
                        for y in range(4 + (i - 1) * half, 4 + i * half):
                            for x in range(4 + (j - 1) * half, 4 + j * half):
                                part += region[y, x]
                        parts[i, j] = part
                for i in range(count):
                    for j in range(count):
                        y, x = 4 + (i - 1) * half, 4 + (j - 1) * half
                        known = y >= top and x >= left
                        known = known and y + 2 * half <= bottom and x + 2 * half <= right
                        found = (
                            parts[i, j] + parts[i + 1, j] + parts[i, j + 1] + parts[i + 1, j + 1]
                        )
                        sums[i, j] = found * np.float32(0.25) if known else np.float32(0)
                for i in range(8):
                    for j in range(8):
                        y, x = i // half, j // half
                        found = sums[y, x] + sums[y + 1, x] + sums[y, x + 1] + sums[y + 1, x + 1]
                        slope[i, j] += found
            wide = np.float32(0)
            for step in (1, 2):  # windows of twice so many blocks a side, at half their side
                for i in range(row // step - 1, row // step + 1):
                    for j in range(column // step - 1, column // step + 1):
                        if min(i, j) < 0 or (max(i, j) + 2) * step > sky.shape[1]:
                            continue
                        for y in range(i * step, (i + 2) * step):
                            for x in range(j * step, (j + 2) * step):
                                wide += sky[tile, y, x]
            wide *= np.float32(0.25) * weight_of_sky
            best, move, channel = np.float32(-0.01), 0, -1
            for c in range(channels):
                product, weight, norm = np.float32(0), np.float32(0), np.float32(0)
                lift = np.float32(0)
                for i in range(8):
                    for j in range(8):
                        heavy, one = root[tile, y0 + i, x0 + j], answers[c, i, j]
                        product += heavy * one * slope[i, j]
                        weight += heavy * heavy * one * one
                        norm += one * one
                        if 0 < heavy * heavy <= worth:
                            lift += one
                # of a channel that the decoder does not look at only the bits count
                square = (
                    squares[c] * weight / max(norm, np.float32(1e-30))
                    + 2 * weight_of_sky * lift * lift
                )
                product += wide * lift
                cost = bits[:, tile, row, column, c]
                for sign in (-1, 1):
                    change = lmbda * (2 * sign * product + square) + cost[1 + sign] - cost[1]
                    if change < best:
                        best, move, channel = change, sign, c
            if channel < 0:
                break
            latents[tile, row, column, channel] += move
            for i in range(8):
                for j in range(8):
                    heavy = root[tile, y0 + i, x0 + j]
                    change = move * answers[channel, i, j]
                    errors[tile, y0 + i, x0 + j] += change * heavy
                    if 0 < heavy * heavy <= worth:
                        sky[tile, row, column] += change
            cost = bits[:, tile, row, column, channel]
            saved[tile] += cost[1] - cost[1 + move]
            # what lies beyond the next number is not known in this round
            cost[1 - move], cost[1], cost[1 + move] = cost[1], cost[1 + move], np.float32(1e9)
