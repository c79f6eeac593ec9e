/* Model: a Spec and its weights. */
#pragma once
#include "blocks/spec.h"
#include "engine/engine.h"
#include "weights/weights.h"

typedef struct Model {
    Spec spec;
    Precision precision; /* of its products */
    Weights weights;
} Model;

/* Declares the parameters by recording the model once, and takes their memory if `take` (a model without serves
 * forecasts alone). False: see e (no memory, sizes that do not fit); m is empty. */
bool model_init(Model *m, const Spec *spec, Precision precision, Storage storage, bool take, Error *e);
void model_free(Model *m);
