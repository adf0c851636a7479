/* Speak requests with flite's voices; see speak.h. */
#include <flite/flite.h>

#include "speak.h"

cst_voice *register_cmu_us_awb(const char *), *register_cmu_us_kal16(const char *),
    *register_cmu_us_rms(const char *), *register_cmu_us_slt(const char *);

static struct voice {
    const char *name;
    cst_voice *(*load)(const char *);
    cst_voice *voice;
    float pitch, spread;
} voices[] = {
    {"awb", register_cmu_us_awb, 0, 0, 0},
    {"kal16", register_cmu_us_kal16, 0, 0, 0},
    {"rms", register_cmu_us_rms, 0, 0, 0},
    {"slt", register_cmu_us_slt, 0, 0, 0},
};

static struct voice *find(const char *name) {
    for (size_t i = 0; i < sizeof voices / sizeof *voices; i++)
        if (!strcmp(voices[i].name, name)) {
            struct voice *v = &voices[i];
            if (!v->voice) {
                v->voice = v->load(NULL);
                v->pitch = get_param_float(v->voice->features, "int_f0_target_mean", 100);
                v->spread = get_param_float(v->voice->features, "int_f0_target_stddev", 15);
            }
            return v;
        }
    fprintf(stderr, "no such voice: %s\n", name);
    exit(2);
}

/* Give flite the words as tokens, so that each word's end can be read back. */
static cst_utterance *speak(const struct request *r) {
    struct voice *v = find(r->voice);
    feat_set_float(v->voice->features, "duration_stretch", r->stretch * r->formants);
    feat_set_float(v->voice->features, "int_f0_target_mean", v->pitch * r->pitch / r->formants);
    double spread = r->jitter > 0 ? 0.6 + 0.9 * uniform() : 1;
    feat_set_float(v->voice->features, "int_f0_target_stddev", v->spread * spread);
    cst_utterance *u = new_utterance();
    utt_init(u, v->voice);
    cst_relation *tokens = utt_relation_create(u, "Token");
    char *at;
    for (char *w = strtok_r(r->text, " ", &at); w; w = strtok_r(NULL, " ", &at)) {
        size_t length = strlen(w);
        int comma = length > 1 && w[length - 1] == ',';
        if (comma) w[length - 1] = 0;
        cst_item *token = relation_append(tokens, NULL);
        item_set_string(token, "name", w);
        item_set_string(token, "whitespace", " ");
        item_set_string(token, "prepunctuation", "");
        item_set_string(token, "punc", comma ? "," : "");
        if (r->jitter > 0)
            item_set_float(token, "local_duration_stretch",
                           fmin(1.8, fmax(0.6, exp(r->jitter * normal()))));
    }
    if (!utt_synth_tokens(u) || !utt_wave(u)) {
        fprintf(stderr, "flite cannot speak request %ld\n", r->id);
        exit(1);
    }
    return u;
}

/* Seconds to the end of a token's last segment; -1 where it has none. */
static double token_end(const cst_item *token) {
    const cst_item *item = item_last_daughter(token);
    if (item) item = item_as(item, "SylStructure");
    if (item) item = item_last_daughter(item);
    if (item) item = item_last_daughter(item);
    return item ? item_feat_float(item_as(item, "Segment"), "end") : -1;
}

int main(int argc, char **argv) {
    if (argc != 3) return fprintf(stderr, "usage: %s REQUESTS PREFIX\n", argv[0]), 2;
    flite_init();
    FILE *requests = fopen(argv[1], "r");
    if (!requests) return perror(argv[1]), 2;
    struct output out = open_output(argv[2]);
    char line[LINE];
    struct request r;
    while (next_request(requests, line, &r)) {
        cst_utterance *u = speak(&r);
        cst_wave *wave = utt_wave(u);
        int count;
        double step = wave->sample_rate / (double)RATE * r.formants;
        short *audio = resample(wave->samples, wave->num_samples, step, &count);
        fprintf(out.table, "%ld\t%s\t%d\t", r.id, r.voice, count);
        double end = 0;
        const char *space = "";
        for (const cst_item *t = relation_head(utt_relation(u, "Token")); t; t = item_next(t)) {
            end = fmax(end, token_end(t));
            fprintf(out.table, "%s%s:%d", space, item_feat_string(t, "name"),
                    (int)(end * RATE / r.formants));
            space = " ";
        }
        fputc('\n', out.table);
        fwrite(audio, sizeof *audio, count, out.pcm);
        free(audio);
        delete_utterance(u);
    }
    return fclose(out.pcm) | fclose(out.table) ? 1 : 0;
}
