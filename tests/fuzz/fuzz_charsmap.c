/* Any bytes as a precompiled charsmap, then as a text that it normalises. */
#include "data/text/pipeline.h"
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n) {
    static const NormalOp ops[] = {NORMAL_SENTENCEPIECE, NORMAL_CHARSMAP};
    Error err = {""};
    if (!charsmap_check((const char *)bytes, n, &err)) {
        assert(err.text[0] != 0);
        return 0;
    }
    for (size_t i = 0; i < COUNT(ops); i++) {
        Pipeline *p = pipeline_new(&spm_kind);
        TextStep step = {.op = ops[i], .flags = SPM_PREFIX | SPM_TIDY | SPM_ESCAPE};
        step.a = pipeline_add_string(p, (const char *)bytes, n);
        assert(pipeline_add_step(p->form.normal, &p->form.normals, step, &err));
        pipeline_finish(p);
        static const char caption[] =
            "A photo of a ca\u0301fe\u0301  \uFF21 \uFB01 \U0001F468\u200D\U0001F469";
        Chars text = {0}, spare = {0};
        chars_add(&text, caption, strlen(caption));
        normalize(p, &text, &spare);
        text.n = 0;
        if (ops[i] == NORMAL_SENTENCEPIECE)
            chars_add(&text, (const char *)bytes, n); /* not UTF-8 */
        normalize(p, &text, &spare);
        free(text.at);
        free(spare.at);
        pipeline_free(&p->base);
    }
    return 0;
}
