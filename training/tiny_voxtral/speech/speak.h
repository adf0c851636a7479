/* What both synthesiser programs share: the request line, random numbers, a resampler, the output.
 *
 * Usage: PROGRAM REQUESTS PREFIX [DATA]. Each request is one line of tab-separated fields
 *     id voice stretch pitch formants jitter text
 * with stretch, pitch and formants as ratios to the voice's own (1 = unchanged) and jitter the spread
 * of word lengths. PREFIX.pcm gets 16 kHz s16le audio, PREFIX.tsv one line for each utterance:
 *     id voice samples word:end word:end ...
 * where end is the sample at which the word ends, as the synthesiser itself says. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define RATE 16000
#define LINE 8192

struct request {
    long id;
    char *voice, *text;
    double stretch, pitch, formants, jitter;
};

struct output {
    FILE *pcm, *table;
};

static double uniform(void) { return rand() / (RAND_MAX + 1.0); }

static double normal(void) {
    return sqrt(-2 * log(uniform() + 1e-12)) * cos(2 * M_PI * uniform());
}

/* Read the next request into line; 0 at the end. Seeds rand() with the id: the result does not
 * depend on what was spoken before. */
static int next_request(FILE *file, char line[LINE], struct request *r) {
    if (!fgets(line, LINE, file)) return 0;
    line[strcspn(line, "\n")] = 0;
    char *at, *field[7];
    for (int i = 0; i < 7; i++)
        if (!(field[i] = strtok_r(i ? NULL : line, "\t", &at))) {
            fprintf(stderr, "bad request: field %d is missing\n", i + 1);
            exit(2);
        }
    *r = (struct request){atol(field[0]), field[1], field[6], atof(field[2]), atof(field[3]),
                          atof(field[4]), atof(field[5])};
    srand(r->id * 7919 + 13);
    return 1;
}

static FILE *open_file(const char *prefix, const char *suffix) {
    char name[4096];
    snprintf(name, sizeof name, "%s%s", prefix, suffix);
    FILE *file = fopen(name, "wb");
    if (!file) perror(name), exit(2);
    return file;
}

static struct output open_output(const char *prefix) {
    return (struct output){open_file(prefix, ".pcm"), open_file(prefix, ".tsv")};
}

/* Read x at every `step`-th sample through a Hann-windowed sinc; returns a new buffer. */
static short *resample(const short *x, int n, double step, int *count) {
    enum { HALF = 12, FINE = 256 };
    static double kernel[2 * HALF * FINE + 1], made_for = -1;
    if (step != made_for) {
        double cut = 0.95 * (step > 1 ? 1 / step : 1);
        for (int i = 0; i <= 2 * HALF * FINE; i++) {
            double t = (i - HALF * FINE) / (double)FINE;
            double sinc = t == 0 ? 1 : sin(M_PI * cut * t) / (M_PI * cut * t);
            kernel[i] = cut * sinc * (0.5 + 0.5 * cos(M_PI * t / HALF));
        }
        made_for = step;
    }
    *count = (int)(n / step);
    short *y = malloc(sizeof *y * (*count + 1));
    for (int i = 0; i < *count; i++) {
        if (step == 1) { y[i] = x[i]; continue; }
        double at = i * step, sum = 0;
        int low = (int)at - HALF + 1, high = (int)at + HALF;
        for (int j = low < 0 ? 0 : low; j <= high && j < n; j++) {
            int k = (int)((j - at) * FINE) + HALF * FINE;
            if (k >= 0 && k <= 2 * HALF * FINE) sum += x[j] * kernel[k];
        }
        y[i] = sum > 32767 ? 32767 : sum < -32768 ? -32768 : (short)sum;
    }
    return y;
}
