/* Speak requests with espeak-ng; see speak.h. DATA is the folder that holds espeak-ng-data. */
#include <espeak-ng/speak_lib.h>

#include "speak.h"

enum { MAX_EVENTS = 4096, NORMAL_RATE = 175, NORMAL_PITCH = 50, NORMAL_RANGE = 50 };

/* espeak-ng asks for a sound device even where it speaks to memory; it gets none. */
void *create_audio_device_object(void) { return NULL; }

static struct {
    short *samples;
    int count, room;
    struct { int at_char, ms; } words[MAX_EVENTS];
    int events;
} spoken;

static int receive(short *audio, int n, espeak_EVENT *event) {
    if (audio && n > 0) {
        if (spoken.count + n > spoken.room) {
            spoken.room = 2 * (spoken.count + n);
            spoken.samples = realloc(spoken.samples, sizeof(short) * spoken.room);
        }
        memcpy(spoken.samples + spoken.count, audio, sizeof(short) * n);
        spoken.count += n;
    }
    for (; event->type != espeakEVENT_LIST_TERMINATED; event++)
        if (event->type == espeakEVENT_WORD && spoken.events < MAX_EVENTS) {
            spoken.words[spoken.events].at_char = event->text_position - 1;
            spoken.words[spoken.events++].ms = event->audio_position;
        }
    return 0;
}

static void without_commas(char *text) {
    char *to = text;
    for (; *text; text++)
        if (*text != ',') *to++ = *text;
    *to = 0;
}

static void speak(const struct request *r) {
    if (espeak_SetVoiceByName(r->voice) != EE_OK) {
        fprintf(stderr, "no such voice: %s\n", r->voice);
        exit(2);
    }
    double pitch = NORMAL_PITCH + 60 * log2(r->pitch / r->formants);
    double range = NORMAL_RANGE * (r->jitter > 0 ? exp(0.5 * normal()) : 1);
    espeak_SetParameter(espeakRATE, (int)(NORMAL_RATE / (r->stretch * r->formants)), 0);
    espeak_SetParameter(espeakPITCH, (int)fmin(99, fmax(0, pitch)), 0);
    espeak_SetParameter(espeakRANGE, (int)fmin(100, range), 0);
    spoken.count = spoken.events = 0;
    espeak_Synth(r->text, strlen(r->text) + 1, 0, POS_CHARACTER, 0, espeakCHARS_UTF8, NULL, NULL);
    espeak_Synchronize();
    if (!spoken.count) {
        fprintf(stderr, "espeak-ng cannot speak request %ld\n", r->id);
        exit(1);
    }
}

/* A word ends where the next one that espeak-ng announces starts, the last where the sound ends. */
static int word_end(int next_char, double formants, int last) {
    for (int i = 0; i < spoken.events; i++)
        if (spoken.words[i].at_char >= next_char) {
            int end = (int)(spoken.words[i].ms * (RATE / 1000.0) / formants);
            return end < last ? end : last;
        }
    return last;
}

int main(int argc, char **argv) {
    if (argc != 4) return fprintf(stderr, "usage: %s REQUESTS PREFIX DATA\n", argv[0]), 2;
    int rate = espeak_Initialize(AUDIO_OUTPUT_SYNCHRONOUS, 0, argv[3], espeakINITIALIZE_DONT_EXIT);
    if (rate <= 0) return fprintf(stderr, "no espeak-ng-data in %s\n", argv[3]), 2;
    espeak_SetSynthCallback(receive);
    FILE *requests = fopen(argv[1], "r");
    if (!requests) return perror(argv[1]), 2;
    struct output out = open_output(argv[2]);
    char line[LINE];
    struct request r;
    while (next_request(requests, line, &r)) {
        without_commas(r.text);
        speak(&r);
        int count;
        double step = rate / (double)RATE * r.formants;
        short *audio = resample(spoken.samples, spoken.count, step, &count);
        int last = count;
        while (last > 1 && abs(audio[last - 1]) < 60) last--;
        fprintf(out.table, "%ld\t%s\t%d\t", r.id, r.voice, count);
        char *text = r.text, *at;
        const char *space = "";
        for (char *w = strtok_r(text, " ", &at); w; w = strtok_r(NULL, " ", &at)) {
            int end = word_end(w - text + strlen(w), r.formants, last);
            fprintf(out.table, "%s%s:%d", space, w, end);
            space = " ";
        }
        fputc('\n', out.table);
        fwrite(audio, sizeof *audio, count, out.pcm);
        free(audio);
    }
    return fclose(out.pcm) | fclose(out.table) ? 1 : 0;
}
